/* Asks c-ares for a name, or for the name of an address, and prints the milliseconds it took and the answers. */
#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static char answers[4096];

static void add(const char *text) {
    snprintf(answers + strlen(answers), sizeof answers - strlen(answers), " %s", text);
}

static void fail(int status) {
    snprintf(answers, sizeof answers, " (%s)", ares_strerror(status));
}

static void named(void *unused, int status, int timeouts, struct hostent *host) {
    if (status == ARES_SUCCESS) add(host->h_name);
    else fail(status);
}

static void found(void *unused, int status, int timeouts, struct ares_addrinfo *info) {
    struct ares_addrinfo_node *one;
    char text[64];
    if (status != ARES_SUCCESS) { fail(status); return; }
    for (one = info->nodes; one; one = one->ai_next) {
        void *at = one->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr
                                             : (void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr;
        add(inet_ntop(one->ai_family, at, text, sizeof text));
    }
    ares_freeaddrinfo(info);
}

int main(int count, char **words) {
    struct ares_addrinfo_hints hints;
    struct ares_options options;
    struct in_addr from;
    ares_channel_t *channel;
    double start;
    memset(&hints, 0, sizeof hints);
    memset(&options, 0, sizeof options);
    options.evsys = ARES_EVSYS_DEFAULT;
    start = now();
    if (count != 2 || ares_library_init(ARES_LIB_INIT_ALL)) return 2;
    if (ares_init_options(&channel, &options, ARES_OPT_EVENT_THREAD)) return 2;
    if (inet_pton(AF_INET, words[1], &from) == 1)
        ares_gethostbyaddr(channel, &from, sizeof from, AF_INET, named, 0);
    else
        ares_getaddrinfo(channel, words[1], 0, &hints, found, 0);
    ares_queue_wait_empty(channel, -1);
    printf("%.1f%s\n", now() - start, answers);
    ares_destroy(channel);
    return 0;
}
