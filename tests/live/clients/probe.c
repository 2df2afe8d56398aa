/* Asks this system's C library for a name, or for the name of an address, and prints
   the milliseconds it took and the answers: compiled once for glibc and once for musl. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

int main(int count, char **words) {
    struct addrinfo hints, *found = 0, *one;
    struct sockaddr_in from;
    char text[1025] = "";
    double start = now();
    int wrong;
    memset(&hints, 0, sizeof hints);
    memset(&from, 0, sizeof from);
    hints.ai_socktype = SOCK_STREAM;
    from.sin_family = AF_INET;
    if (count != 2) return 2;
    if (inet_pton(AF_INET, words[1], &from.sin_addr) == 1)
        wrong = getnameinfo((struct sockaddr *)&from, sizeof from, text, sizeof text, 0, 0, NI_NAMEREQD);
    else
        wrong = getaddrinfo(words[1], 0, &hints, &found);
    printf("%.1f", now() - start);
    if (text[0]) printf(" %s", text);
    for (one = found; one; one = one->ai_next) {
        getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
        printf(" %s", text);
    }
    if (wrong) printf(" (%s)", gai_strerror(wrong));
    printf("\n");
    return 0;
}
