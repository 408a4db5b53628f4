// Before the first paint: what the reader has chosen, else what the system says.
"use strict";
try {
  const chosen = localStorage.getItem("service-utils-theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch {
  // No storage, no memory: the system decides.
}
