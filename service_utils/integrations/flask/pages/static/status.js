// Keeps the page up to date: asks every two seconds, replaces what has changed, counts seconds in between.
"use strict";

const EVERY = 2000; // milliseconds between two questions
const PATIENCE = 5000; // milliseconds for an answer
const page = document.body;
const stale = document.getElementById("stale");
const seen = new Map(); // what the server sent, by the part of the page
let offset = page.dataset.now ? Date.parse(page.dataset.now) - Date.now() : 0; // of the server's clock
let etag = null;
let lastGood = new Date();

function draw(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  let strangers = false;
  for (const part of fresh.querySelectorAll("[data-live]")) {
    const key = part.dataset.live;
    const old = document.querySelector(`[data-live="${CSS.escape(key)}"]`);
    if (!old) {
      strangers = true;
    } else if (seen.get(key) !== part.outerHTML) {
      seen.set(key, part.outerHTML);
      for (const { name } of [...old.attributes]) if (!part.hasAttribute(name)) old.removeAttribute(name);
      for (const { name, value } of part.attributes) old.setAttribute(name, value);
      old.replaceChildren(...part.childNodes);
    }
  }
  for (const card of document.querySelectorAll("#cards > .card")) {
    const facts = card.querySelector("[data-live]");
    strangers ||= !fresh.querySelector(`[data-live="${CSS.escape(facts.dataset.live)}"]`);
  }
  // A service has come or gone. Not while somebody is writing: the words would be lost.
  if (strangers && !document.querySelector("details[open]")) location.reload();
  count();
  filter();
}

async function ask() {
  const response = await fetch(page.dataset.liveUrl, {
    headers: etag ? { "If-None-Match": etag } : {},
    cache: "no-store",
    credentials: "same-origin",
    signal: AbortSignal.timeout(PATIENCE),
  });
  if (response.status === 401 || response.status === 403) {
    location.reload(); // the session is over
    return;
  }
  if (response.status !== 304 && !response.ok) throw new Error(`status ${response.status}`);
  const now = Date.parse(response.headers.get("Server-Time"));
  if (!Number.isNaN(now)) offset = now - Date.now();
  if (response.status !== 304) {
    const text = await response.text();
    etag = response.headers.get("ETag");
    draw(text);
  }
}

async function keepUp() {
  if (!document.hidden) {
    try {
      await ask();
      lastGood = new Date();
      stale.hidden = true;
      page.classList.remove("is-stale");
    } catch {
      const words = `Stale since ${lastGood.toLocaleTimeString()}: the backend does not answer`;
      if (stale.textContent !== words) stale.textContent = words;
      stale.hidden = false;
      page.classList.add("is-stale");
    }
  }
  setTimeout(keepUp, EVERY);
}

function inWords(seconds) {
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

function say(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

function count() {
  const now = Date.now() + offset;
  for (const each of document.querySelectorAll("time[data-ago]")) {
    const seconds = Math.max(Math.round((now - Date.parse(each.dateTime)) / 1000), 0);
    say(each, `${inWords(seconds)} ago`);
    each.title = each.dateTime;
  }
  for (const each of document.querySelectorAll("time[data-until]")) {
    const seconds = Math.ceil((Date.parse(each.dateTime) - now) / 1000);
    say(each, seconds > 0 ? `in ${inWords(seconds)}` : "now");
    each.title = each.dateTime;
  }
}

function filter() {
  const form = document.getElementById("filter");
  if (!form) return;
  const words = document.getElementById("filter-text").value.trim().toLowerCase();
  const sickOnly = document.getElementById("filter-sick").checked;
  const cards = [...document.querySelectorAll("#cards > .card")];
  let shown = 0;
  for (const card of cards) {
    const key = card.querySelector("[data-live]").dataset.key;
    const hit = `${card.dataset.name} ${key}`.includes(words) && !(sickOnly && (key === "closed" || key === "disabled"));
    card.hidden = !hit;
    shown += hit;
  }
  say(document.getElementById("filter-count"), shown === cards.length ? "" : `${shown} of ${cards.length}`);
}

function offerThemes() {
  const button = document.getElementById("theme");
  const root = document.documentElement;
  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => say(button, isDark() ? "Light" : "Dark");
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("service-utils-theme", root.dataset.theme);
    } catch {
      // No storage: it holds for this page.
    }
    label();
  });
  button.hidden = false;
  label();
}

offerThemes();
for (const button of document.querySelectorAll("button[data-confirm]")) {
  button.addEventListener("click", (event) => {
    if (!confirm(button.dataset.confirm)) event.preventDefault();
  });
}
const form = document.getElementById("filter");
if (form) {
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
}
setInterval(count, 250);
count();
filter();
if (page.dataset.liveUrl) {
  setTimeout(keepUp, EVERY);
  addEventListener("visibilitychange", () => document.hidden || ask().catch(() => {}));
}
