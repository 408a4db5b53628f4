/* A small HTTP/1.1 keep-alive server for the benchmarks: one thread, epoll, the same answer to everything.
 *
 *     server [delay in milliseconds]
 *
 * It binds 127.0.0.1 at a port of the system's choice and prints that port. Every answer is 200 with a JSON body
 * of 200 bytes that holds the path of its request, so that a client can tell its own answer from another's.
 * Below /chunked it has no Content-Length but comes in a chunk. GET /stats answers, at once, with the number of
 * connections accepted and requests answered so far.
 * It ends when its standard input does, so no server outlives its benchmark.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BODY 200
#define ROOM 16384
#define EVENTS 256

struct connection {
    int fd;                  /* -1: closed while its answer was still waiting */
    size_t used;             /* bytes in `in` */
    long long due;           /* when its answer leaves; 0: none is waiting */
    int closing;             /* the client asked for the connection to be closed */
    struct connection *next; /* in the queue of answers that wait */
    size_t out_length;
    char out[512];
    char in[ROOM];
};

static struct connection *first_waiting, *last_waiting;
static long long delay_ns, connections, requests;
static char date[64];

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void drop(struct connection *each) {
    close(each->fd);
    each->fd = -1;
    if (!each->due)
        free(each);
}

/* Whether the connection is still there. */
static int answer(struct connection *each) {
    ssize_t sent = send(each->fd, each->out, each->out_length, MSG_NOSIGNAL);
    each->due = 0;
    if (sent != (ssize_t)each->out_length || each->closing) {
        drop(each);
        return 0;
    }
    return 1;
}

static void fill(char *body, const char *start) {
    size_t length = strlen(start);
    memcpy(body, start, length);
    memset(body + length, 'x', BODY - length - 2);
    memcpy(body + BODY - 2, "\"}", 2);
}

static void write_answer(struct connection *each, const char *path) {
    char start[160], body[BODY + 1] = {0};
    if (strcmp(path, "/stats") == 0)
        snprintf(start, sizeof start, "{\"connections\": %lld, \"requests\": %lld, \"padding\": \"", connections,
                 requests);
    else
        snprintf(start, sizeof start, "{\"path\": \"%.100s\", \"status\": \"ok\", \"padding\": \"", path);
    fill(body, start);
    int chunked = strncmp(path, "/chunked", 8) == 0;
    const char *format = chunked ? "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
                                 : "Content-Length: %d\r\n\r\n%s";
    int length = snprintf(each->out, sizeof each->out,
                          "HTTP/1.1 200 OK\r\nServer: benchmark\r\nDate: %s\r\nContent-Type: application/json\r\n",
                          date);
    length += snprintf(each->out + length, sizeof each->out - (size_t)length, format, BODY, body);
    each->out_length = (size_t)length;
}

/* The path of the request, with whatever JSON or a reader could stumble over replaced. */
static void read_path(const char *head, char *path, size_t room) {
    const char *start = strchr(head, ' ');
    size_t length = 0;
    if (start)
        for (start++; *start > ' ' && *start < 127 && length + 1 < room; start++)
            path[length++] = (*start == '"' || *start == '\\') ? '_' : *start;
    path[length] = 0;
}

/* Take the first request out of the buffer. 0: it is not complete; -1: the connection is gone. */
static int take(struct connection *each) {
    char path[101];
    each->in[each->used] = 0;
    char *end = strstr(each->in, "\r\n\r\n");
    if (!end)
        return 0;
    *end = 0;
    const char *field = strcasestr(each->in, "\r\ncontent-length:");
    size_t whole = (size_t)(end + 4 - each->in) + (field ? (size_t)strtoul(field + 17, NULL, 10) : 0);
    if (whole > each->used) {
        *end = '\r';
        return 0;
    }
    each->closing = strcasestr(each->in, "\r\nconnection: close") != NULL;
    read_path(each->in, path, sizeof path);
    memmove(each->in, each->in + whole, each->used - whole);
    each->used -= whole;
    int is_stats = strcmp(path, "/stats") == 0;
    requests += !is_stats;
    write_answer(each, path);
    if (!delay_ns || is_stats)
        return answer(each) ? 1 : -1;
    each->due = now_ns() + delay_ns;
    each->next = NULL;
    if (last_waiting)
        last_waiting->next = each;
    else
        first_waiting = each;
    last_waiting = each;
    return 1;
}

static void readable(struct connection *each) {
    ssize_t got = recv(each->fd, each->in + each->used, ROOM - 1 - each->used, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0 || (each->used += (size_t)got) >= ROOM - 1) {
        drop(each);
        return;
    }
    while (!each->due && take(each) > 0)
        ;
}

static void answer_those_due(void) {
    long long now = now_ns();
    while (first_waiting && first_waiting->due <= now) {
        struct connection *each = first_waiting;
        first_waiting = each->next;
        if (!first_waiting)
            last_waiting = NULL;
        if (each->fd < 0)
            free(each);
        else
            answer(each);
    }
}

static int milliseconds_to_wait(void) {
    if (!first_waiting)
        return -1;
    long long left = first_waiting->due - now_ns();
    return left <= 0 ? 0 : (int)((left + 999999) / 1000000);
}

static void greet(int epoll, int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *each = calloc(1, sizeof *each);
        if (!each) {
            close(fd);
            return;
        }
        connections++;
        each->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = each};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

static int listen_somewhere(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 512) ||
        getsockname(listener, (struct sockaddr *)&address, &length)) {
        perror("server");
        exit(1);
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

int main(int count, char **arguments) {
    time_t today = time(NULL);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&today));
    delay_ns = count > 1 ? atoll(arguments[1]) * 1000000LL : 0;
    signal(SIGPIPE, SIG_IGN);
    int epoll = epoll_create1(EPOLL_CLOEXEC), listener = listen_somewhere();
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener}, events[EVENTS];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    event.data.ptr = NULL; /* standard input: its end is ours */
    epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, milliseconds_to_wait());
        for (int i = 0; i < ready; i++) {
            if (!events[i].data.ptr)
                return 0;
            if (events[i].data.ptr == &listener)
                greet(epoll, listener);
            else
                readable(events[i].data.ptr);
        }
        answer_those_due();
    }
}
