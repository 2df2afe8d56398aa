/* The limit: sends each datagram back with QR set, by recvmmsg and sendmmsg. echo PORT, on 127.0.0.1. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { BATCH = 64, ROOM = 2048 };

int main(int argc, char **argv)
{
    static uint8_t room[BATCH][ROOM];
    static struct sockaddr_in peers[BATCH];
    static struct iovec vectors[BATCH];
    static struct mmsghdr messages[BATCH];
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    here.sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 0));
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&here, sizeof here) < 0) {
        perror("echo");
        return 1;
    }
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            vectors[i] = (struct iovec){room[i], ROOM};
            messages[i].msg_hdr = (struct msghdr){&peers[i], sizeof peers[i], &vectors[i], 1, NULL, 0, 0};
        }
        int count = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        for (int i = 0; i < count; i++) {
            room[i][2] |= 0x80;
            vectors[i].iov_len = messages[i].msg_len;
        }
        for (int done = 0; done < count;) {
            int now = sendmmsg(fd, messages + done, (unsigned)(count - done), 0);
            done += now > 0 ? now : 1;
        }
    }
}
