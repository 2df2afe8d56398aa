/* Sends changed packets to a DNS server and checks that each gets what it must get. storm.py compiles and runs it.

   storm COUNT SEED FILE ADDRESS:PORT

   FILE holds packets, each behind its length (16 bits, big endian). What is sent is one of them, changed up to six times.
   WINDOW packets that must be answered are under way on each socket; one that is not is sent again, twice. Silence is
   right for less than a header and for responses alone. Prints one line of JSON, and on standard error packets that got
   the wrong thing. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SOCKETS = 4, WINDOW = 32, MOST = 4096, SEEDS = 4096, TRIES = 3, SHOWN = 10, FREE = 0, WAITING = 1, SILENT = 2 };
#define AGAIN 1000000000ull /* ns after which a packet is sent again */

struct packet { uint16_t length; uint8_t bytes[MOST]; };
struct slot { struct packet packet; uint64_t sent; uint16_t id; uint8_t busy, tries; };
struct way { int fd, under_way; uint16_t next; uint8_t state[65536], slot_of[65536]; struct slot slots[WINDOW]; };

static struct packet seeds[SEEDS];
static struct way ways[SOCKETS];
static int seed_count, shown;
static uint64_t state, answered, silent, again, missing, wrong, stray, truncated, rcodes[16];

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static uint64_t draw(uint64_t below) /* xorshift64 */
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % below;
}

static void die(const char *what)
{
    fprintf(stderr, "storm: %s: %s\n", what, errno ? strerror(errno) : "");
    exit(2);
}

static void show(const char *what, const uint8_t *bytes, size_t length)
{
    if (shown++ >= SHOWN)
        return;
    fprintf(stderr, "storm: %s: ", what);
    for (size_t i = 0; i < length; i++)
        fprintf(stderr, "%02x", bytes[i]);
    fprintf(stderr, "\n");
}

static void change(struct packet *one)
{
    static const uint8_t odd[] = {0, 1, 0x0C, 0x29, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xFF};
    size_t length = one->length;
    /* Mostly behind the header, or nothing but the header would be tried. */
    size_t at = length <= 12 || !draw(4) ? draw(length + 1) : 12 + draw(length - 11);
    size_t size = 1 + draw(8);
    switch (draw(9)) {
    case 0:
        if (at < length)
            one->bytes[at] ^= (uint8_t)(1 << draw(8));
        break;
    case 1:
        if (at < length)
            one->bytes[at] = (uint8_t)draw(256);
        break;
    case 2:
        if (at < length)
            one->bytes[at] = odd[draw(sizeof odd)];
        break;
    case 3: /* put in */
        if (length + size > MOST)
            break;
        memmove(one->bytes + at + size, one->bytes + at, length - at);
        for (size_t i = 0; i < size; i++)
            one->bytes[at + i] = (uint8_t)draw(256);
        one->length = (uint16_t)(length + size);
        break;
    case 4: /* take out */
        if (at + size > length)
            break;
        memmove(one->bytes + at, one->bytes + at + size, length - at - size);
        one->length = (uint16_t)(length - size);
        break;
    case 5: /* cut off */
        if (!draw(4))
            one->length = (uint16_t)at;
        break;
    case 6: { /* the end of another packet */
        const struct packet *other = &seeds[draw((uint64_t)seed_count)];
        if (at >= other->length || draw(2))
            break;
        memcpy(one->bytes + at, other->bytes + at, other->length - at);
        one->length = other->length;
        break;
    }
    case 7: /* letters in the other case */
        for (size_t i = 12; i < length; i++)
            if ((one->bytes[i] | 0x20) >= 'a' && (one->bytes[i] | 0x20) <= 'z' && draw(2))
                one->bytes[i] ^= 0x20;
        break;
    default: /* much more behind it */
        if (draw(32))
            break;
        size = draw(MOST - length + 1);
        for (size_t i = 0; i < size; i++)
            one->bytes[length + i] = (uint8_t)draw(256);
        one->length = (uint16_t)(length + size);
    }
}

static void launch(struct way *way)
{
    struct packet one = seeds[draw((uint64_t)seed_count)];
    for (uint64_t changes = draw(7); changes; changes--)
        change(&one);
    uint16_t id = way->next++;
    while (way->state[id] == WAITING)
        id = way->next++;
    if (one.length >= 2) {
        one.bytes[0] = (uint8_t)(id >> 8);
        one.bytes[1] = (uint8_t)id;
    }
    if (one.length < 12 || one.bytes[2] & 0x80) {
        way->state[id] = SILENT;
        silent++;
        send(way->fd, one.bytes, one.length, 0);
        return;
    }
    int free_one = 0;
    while (way->slots[free_one].busy)
        free_one++;
    struct slot *slot = &way->slots[free_one];
    slot->packet = one;
    slot->id = id;
    slot->busy = slot->tries = 1;
    slot->sent = now_ns();
    way->slot_of[id] = (uint8_t)free_one;
    way->state[id] = WAITING;
    way->under_way++;
    send(way->fd, one.bytes, one.length, 0);
}

static void release(struct way *way, struct slot *slot)
{
    way->state[slot->id] = FREE;
    slot->busy = 0;
    way->under_way--;
}

static int right(const struct packet *asked, const uint8_t *answer, size_t length)
{
    unsigned char wanted = asked->bytes[2] & (asked->bytes[2] & 0x78 ? 0x78 : 0x79);  // RD is copied for QUERY alone
    if (length < 12 || !(answer[2] & 0x80) || (answer[2] & 0x79) != wanted)
        return 0;
    if (length > 1232 || (length > 512 && !asked->bytes[10] && !asked->bytes[11]))
        return 0;
    if (length == 12)
        return !answer[4] && !answer[5];
    size_t end = 12;
    while (end < asked->length && asked->bytes[end] && asked->bytes[end] < 64)
        end += asked->bytes[end] + 1u;
    end += 5;
    return end <= asked->length && end <= length && !answer[4] && answer[5] == 1 &&
           !memcmp(answer + 12, asked->bytes + 12, end - 12);
}

static int take(struct way *way)
{
    uint8_t answer[65536];
    int count = 0;
    for (;; count++) {
        ssize_t got = recv(way->fd, answer, sizeof answer, MSG_DONTWAIT);
        if (got < 0)
            return count;
        uint16_t id = got >= 2 ? (uint16_t)(answer[0] << 8 | answer[1]) : 0;
        if (got < 2 || way->state[id] == FREE) {
            stray++;
            continue;
        }
        if (way->state[id] == SILENT) {
            wrong++;
            show("an answer where silence is right", answer, (size_t)got);
            continue;
        }
        struct slot *slot = &way->slots[way->slot_of[id]];
        if (right(&slot->packet, answer, (size_t)got)) {
            answered++;
            rcodes[answer[3] & 15]++;
            truncated += (answer[2] & 2) != 0;
        } else {
            wrong++;
            show("asked", slot->packet.bytes, slot->packet.length);
            show("and a wrong answer", answer, (size_t)got);
        }
        release(way, slot);
    }
}

static void send_again(struct way *way, uint64_t now)
{
    for (int i = 0; i < WINDOW; i++) {
        struct slot *slot = &way->slots[i];
        if (!slot->busy || now < slot->sent + AGAIN * slot->tries)
            continue;
        if (slot->tries++ >= TRIES) {
            missing++;
            show("no answer", slot->packet.bytes, slot->packet.length);
            release(way, slot);
            continue;
        }
        again++;
        slot->sent = now;
        send(way->fd, slot->packet.bytes, slot->packet.length, 0);
    }
}

static void read_seeds(const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t head[2];
    if (!file)
        die(path);
    while (seed_count < SEEDS && fread(head, 1, 2, file) == 2) {
        struct packet *one = &seeds[seed_count];
        one->length = (uint16_t)(head[0] << 8 | head[1]);
        if (one->length > MOST || fread(one->bytes, 1, one->length, file) != one->length)
            die("the file of packets is damaged");
        seed_count++;
    }
    fclose(file);
    if (!seed_count)
        die("no packets");
}

static void open_way(struct way *way, const char *where)
{
    char address[64];
    struct sockaddr_in to = {.sin_family = AF_INET};
    snprintf(address, sizeof address, "%s", where);
    char *colon = strrchr(address, ':');
    if (!colon)
        die("ADDRESS:PORT is wanted");
    *colon = 0;
    to.sin_port = htons((uint16_t)atoi(colon + 1));
    way->fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1 || way->fd < 0 ||
        connect(way->fd, (struct sockaddr *)&to, sizeof to) < 0)
        die(where);
}

int main(int argc, char **argv)
{
    if (argc != 5)
        die("usage: storm COUNT SEED FILE ADDRESS:PORT");
    uint64_t count = strtoull(argv[1], NULL, 10), sent = 0, look = 0, start = now_ns();
    state = strtoull(argv[2], NULL, 10) * 2654435761u + 88172645463325252ull;
    read_seeds(argv[3]);
    struct pollfd fds[SOCKETS];
    for (int i = 0; i < SOCKETS; i++) {
        open_way(&ways[i], argv[4]);
        fds[i] = (struct pollfd){ways[i].fd, POLLIN, 0};
    }
    for (int under_way = 1; under_way || sent < count;) {
        int moved = under_way = 0;
        for (int i = 0; i < SOCKETS; i++) {
            moved += take(&ways[i]);
            /* What gets silence is not waited for, so only so many at once. */
            for (int k = 0; k < WINDOW && ways[i].under_way < WINDOW && sent < count; k++, moved++, sent++)
                launch(&ways[i]);
            under_way += ways[i].under_way;
        }
        uint64_t now = now_ns();
        if (now > look) {
            look = now + 50000000;
            for (int i = 0; i < SOCKETS; i++)
                send_again(&ways[i], now);
        }
        if (!moved)
            poll(fds, SOCKETS, 50);
    }
    usleep(200000); /* what comes too late, or where silence is right */
    for (int i = 0; i < SOCKETS; i++)
        take(&ways[i]);
    if (stray > again)
        wrong += stray - again;
    printf("{\"sent\": %llu, \"answered\": %llu, \"silent\": %llu, \"missing\": %llu, \"wrong\": %llu, \"again\": %llu, "
           "\"truncated\": %llu, \"seconds\": %.1f, \"rcodes\": [",
           (unsigned long long)sent, (unsigned long long)answered, (unsigned long long)silent,
           (unsigned long long)missing, (unsigned long long)wrong, (unsigned long long)again,
           (unsigned long long)truncated, (double)(now_ns() - start) / 1e9);
    for (int i = 0; i < 16; i++)
        printf("%s%llu", i ? ", " : "", (unsigned long long)rcodes[i]);
    printf("]}\n");
    return 0;
}
