/* Puts load on a DNS server and checks each answer. frame.py compiles and runs it; `main` has the options.

   load -q FILE -t SECONDS [options] ADDRESS:PORT ...

   Closed loop: OUTSTANDING questions are under way at any time, over several sockets that take turns over the given
   addresses. With -r RATE questions are sent by the clock instead, whether answers come or not, and the time of each
   answer is kept. What FILE holds: for each question its length (16 bits, big endian), the expected RCODE, the length
   of what its answer must contain (0: no answer records, 255: any), the question as sent, and that content. An RCODE of
   255 stands for any but NOERROR.

   Prints one line of JSON, and before it with -c a line for each change of the watched answer. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <fcntl.h>

enum { BATCH = 64, ROOM = 2048, MOST_SOCKETS = 64, MOST_SLOTS = 4096, PACKET = 320, NONE = 0xFFFF, LOST = 0xFFFE,
       MOST_LOST = 50000, ANY = 255 };
#define LATE 1500000000ull /* ns after which a question counts as not answered: vmdns waits a second for a LAN */

struct question { const uint8_t *wire, *content; uint16_t length, name; uint8_t rcode, wanted; };
struct slot { uint64_t sent; uint32_t question; uint16_t id, length; uint8_t busy, packet[PACKET]; };
struct way { int fd, free_count, lost; uint16_t *free, *slot_of; struct slot *slots; };

static struct question *questions;
static size_t question_count, next_question;
static struct way ways[MOST_SOCKETS];
static int way_count = 8, slots_each, outstanding = 160, watch_every;
static unsigned in_case; /* of 1000 */
static uint64_t miss_names, miss_counter, miss_nonce;
static double rate;
static uint64_t prepared, sent, answered, counted, wrong, missing, stray, under_way;
static uint32_t *times; /* ns of each answer, in the timed part */
static size_t times_room;
static uint8_t watched[4];
static uint64_t state;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static uint64_t draw(void) /* xorshift64 */
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, errno ? strerror(errno) : "");
    exit(2);
}

static void short_turns(void) /* Linux 6.12: what the benchmark does beside it on this core must not count */
{
    struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; }
        wanted = {.size = 48, .nice = getpriority(PRIO_PROCESS, 0), .runtime = 100000};
    syscall(SYS_sched_setattr, 0, &wanted, 0);
}

static void read_questions(const char *path)
{
    struct stat about;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &about) < 0)
        die(path);
    const uint8_t *at = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (at == MAP_FAILED)
        die(path);
    const uint8_t *end = at + about.st_size;
    size_t room = 0;
    while (end - at >= 4) {
        if (question_count == room) {
            room = room ? 2 * room : 1024;
            questions = realloc(questions, room * sizeof *questions);
            if (!questions)
                die("memory");
        }
        struct question *one = &questions[question_count++];
        one->length = (uint16_t)(at[0] << 8 | at[1]);
        one->rcode = at[2];
        one->wanted = at[3];
        one->wire = at + 4;
        one->content = one->wire + one->length;
        at = one->content + (one->wanted == ANY ? 0 : one->wanted);
        if (at > end || one->length < 17 || one->length > PACKET)
            die("the file of questions is damaged");
        uint16_t name = 12;
        while (one->wire[name] && name + one->wire[name] + 6 <= one->length)
            name = (uint16_t)(name + one->wire[name] + 1);
        one->name = (uint16_t)(name + 1 - 12);
    }
    if (!question_count)
        die("no questions");
}

static void open_ways(char **where, int count)
{
    for (int i = 0; i < way_count; i++) {
        char address[64];
        struct sockaddr_in to = {.sin_family = AF_INET};
        snprintf(address, sizeof address, "%s", where[i % count]);
        char *colon = strrchr(address, ':');
        if (!colon)
            die("ADDRESS:PORT is wanted");
        *colon = 0;
        to.sin_port = htons((uint16_t)atoi(colon + 1));
        if (inet_pton(AF_INET, address, &to.sin_addr) != 1)
            die("the address is wrong");
        struct way *way = &ways[i];
        int room = 4 << 20;
        way->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        if (way->fd < 0 || connect(way->fd, (struct sockaddr *)&to, sizeof to) < 0)
            die(where[i % count]);
        setsockopt(way->fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
        way->slots = calloc((size_t)slots_each, sizeof *way->slots);
        way->free = calloc((size_t)slots_each, sizeof *way->free);
        way->slot_of = malloc(65536 * sizeof *way->slot_of);
        if (!way->slots || !way->free || !way->slot_of)
            die("memory");
        memset(way->slot_of, 0xFF, 65536 * sizeof *way->slot_of);
        for (int k = 0; k < slots_each; k++)
            way->free[way->free_count++] = (uint16_t)k;
    }
}

static void release(struct way *way, struct slot *slot)
{
    way->slot_of[slot->id] = NONE;
    slot->busy = 0;
    way->free[way->free_count++] = (uint16_t)(slot - way->slots);
    under_way--;
}

static void prepare(struct way *way, struct slot *slot, uint64_t now)
{
    size_t number;
    if (watch_every && ++prepared % (unsigned)watch_every == 0) {
        number = 0;
    } else {
        number = next_question;
        if (++next_question >= question_count)
            next_question = watch_every ? 1 % question_count : 0;
    }
    const struct question *one = &questions[number];
    memcpy(slot->packet, one->wire, one->length);
    uint8_t *name = slot->packet + 12;
    if (miss_names) {
        char label[16];
        snprintf(label, sizeof label, "%04x%08x", (unsigned)(miss_nonce & 0xFFFF),
                 (unsigned)(miss_counter++ % miss_names));
        memcpy(name + 1, label, 12);
    }
    if (in_case && (in_case >= 1000 || draw() % 1000 < in_case)) {
        uint64_t bits = draw();
        for (int i = 0; i < one->name; i++) { /* length bytes are no letters */
            uint8_t low = name[i] | 0x20;
            if (low >= 'a' && low <= 'z') {
                name[i] = (uint8_t)(low ^ ((bits & 1) << 5));
                bits = bits >> 1 | bits << 63;
            }
        }
    }
    uint16_t id;
    do
        id = (uint16_t)(draw() >> 24);
    while (way->slot_of[id] != NONE);
    slot->packet[0] = (uint8_t)(id >> 8);
    slot->packet[1] = (uint8_t)id;
    slot->id = id;
    slot->question = (uint32_t)number;
    slot->length = one->length;
    slot->sent = now;
    slot->busy = 1;
    way->slot_of[id] = (uint16_t)(slot - way->slots);
    under_way++;
}

static int send_some(struct way *way, int most, uint64_t now)
{
    static struct mmsghdr out[BATCH];
    static struct iovec vectors[BATCH];
    static struct slot *taken[BATCH];
    int count = 0;
    while (count < most && count < BATCH && way->free_count) {
        struct slot *slot = &way->slots[way->free[--way->free_count]];
        prepare(way, slot, now);
        vectors[count] = (struct iovec){slot->packet, slot->length};
        out[count].msg_hdr = (struct msghdr){.msg_iov = &vectors[count], .msg_iovlen = 1};
        taken[count++] = slot;
    }
    if (!count)
        return 0;
    int done = sendmmsg(way->fd, out, (unsigned)count, 0);
    if (done < 0) {
        if (errno != EAGAIN && errno != ECONNREFUSED && errno != ENOBUFS)
            die("sendmmsg");
        done = 0;
    }
    for (int i = count - 1; i >= done; i--)
        release(way, taken[i]);
    sent += (uint64_t)done;
    return done;
}

static void see(const uint8_t *answer, size_t length, size_t after, uint64_t now)
{
    size_t at = after;
    while (at < length && answer[at] && answer[at] < 0xC0)
        at += answer[at] + 1u;
    at += at < length && answer[at] >= 0xC0 ? 2 : 1;
    if (at + 14 > length || memcmp(answer + at, "\0\1\0\1", 4) || memcmp(answer + at + 10, watched, 4) == 0)
        return;
    memcpy(watched, answer + at + 10, 4);
    printf("seen %llu %u.%u.%u.%u\n", (unsigned long long)now, watched[0], watched[1], watched[2], watched[3]);
}

static int right(const struct slot *slot, const struct question *one, const uint8_t *answer, size_t length)
{
    size_t asked = one->name + 4u;
    if (length < 12 + asked || !(answer[2] & 0x80) || memcmp(answer + 12, slot->packet + 12, asked))
        return 0;
    unsigned records = (unsigned)(answer[6] << 8 | answer[7]);
    unsigned rcode = answer[3] & 15;
    if ((answer[2] & 2) || (one->rcode == ANY ? !rcode : rcode != one->rcode) || answer[4] || answer[5] != 1)
        return 0;
    if (one->wanted == ANY)
        return records > 0;
    if (!one->wanted)
        return !records;
    return records && memmem(answer + 12 + asked, length - 12 - asked, one->content, one->wanted) != NULL;
}

static int receive_some(struct way *way, int timed)
{
    static uint8_t room[BATCH][ROOM];
    static struct mmsghdr in[BATCH];
    static struct iovec vectors[BATCH];
    if (!vectors[0].iov_base)
        for (int i = 0; i < BATCH; i++) {
            vectors[i] = (struct iovec){room[i], ROOM};
            in[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
        }
    int count = recvmmsg(way->fd, in, BATCH, MSG_DONTWAIT, NULL);
    if (count <= 0)
        return 0; /* ECONNREFUSED as well: the server is gone or not there yet, which shows as missing */
    uint64_t now = now_ns();
    for (int i = 0; i < count; i++) {
        const uint8_t *answer = room[i];
        size_t length = in[i].msg_len;
        uint16_t number = length >= 12 ? way->slot_of[answer[0] << 8 | answer[1]] : NONE;
        if (number == NONE || number == LOST) {
            stray++;
            continue;
        }
        struct slot *slot = &way->slots[number];
        const struct question *one = &questions[slot->question];
        if (right(slot, one, answer, length)) {
            answered++;
            if (timed) {
                counted++;
                if (rate > 0 && counted <= times_room)
                    times[counted - 1] = now - slot->sent > 0xFFFFFFFFull ? 0xFFFFFFFFu : (uint32_t)(now - slot->sent);
            }
            if (watch_every && slot->question == 0)
                see(answer, length, 12u + one->name + 4u, now);
        } else if (!wrong++) {
            fprintf(stderr, "load: first wrong answer, %zu bytes, rcode %u, answers %u, to: ", length, answer[3] & 15,
                    answer[7]);
            for (int k = 12; k < slot->length; k++)
                fprintf(stderr, "%02x", slot->packet[k]);
            fprintf(stderr, "\n");
        }
        release(way, slot);
    }
    return count;
}

static void give_up(uint64_t now)
{
    for (int i = 0; i < way_count; i++)
        for (int k = 0; k < slots_each; k++) {
            struct slot *slot = &ways[i].slots[k];
            if (slot->busy && now - slot->sent > LATE && now > slot->sent) {
                missing++;
                release(&ways[i], slot);
                ways[i].slot_of[slot->id] = LOST; /* its answer may yet come, and is that of no other question */
                if (++ways[i].lost >= MOST_LOST) {
                    for (int id = 0; id < 65536; id++)
                        if (ways[i].slot_of[id] == LOST)
                            ways[i].slot_of[id] = NONE;
                    ways[i].lost = 0;
                }
            }
        }
}

static int receive_all(int timed)
{
    int got = 0;
    for (int i = 0; i < way_count; i++)
        got += receive_some(&ways[i], timed);
    return got;
}

static void wait_for(uint64_t ns)
{
    struct pollfd fds[MOST_SOCKETS];
    for (int i = 0; i < way_count; i++)
        fds[i] = (struct pollfd){ways[i].fd, POLLIN, 0};
    struct timespec pause = {(time_t)(ns / 1000000000ull), (long)(ns % 1000000000ull)};
    ppoll(fds, (nfds_t)way_count, &pause, NULL);
}

static void closed_loop(uint64_t warm, uint64_t end)
{
    uint64_t look = 0;
    for (uint64_t now = now_ns(); now < end; now = now_ns()) {
        int moved = 0;
        for (int i = 0; i < way_count; i++) {
            moved += receive_some(&ways[i], now >= warm);
            moved += send_some(&ways[i], BATCH, now);
        }
        if (!moved)
            wait_for(20000000);
        if (now > look) {
            give_up(now);
            look = now + 50000000;
        }
    }
}

static void by_the_clock(uint64_t start, uint64_t warm, uint64_t end)
{
    uint64_t look = 0, due_count = 0;
    double each = 1e9 / rate;
    int turn = 0;
    for (uint64_t now = now_ns(); now < end; now = now_ns()) {
        uint64_t due = (uint64_t)((double)(now - start) / each) + 1;
        while (due_count < due) {
            if (!send_some(&ways[turn], 1, now_ns())) { /* no room: it is not answered */
                sent++;
                missing++;
            }
            turn = (turn + 1) % way_count;
            due_count++;
        }
        if (receive_all(now >= warm))
            continue;
        uint64_t next = start + (uint64_t)((double)due_count * each);
        now = now_ns();
        if (next > now + 2000)
            wait_for(next - now < 20000000 ? next - now : 20000000);
        if (now > look) {
            give_up(now);
            look = now + 50000000;
        }
    }
}

static int smaller(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double part(double share)
{
    size_t count = counted < times_room ? counted : times_room;
    if (!count)
        return 0;
    size_t at = (size_t)((double)count * share);
    return times[at < count ? at : count - 1] / 1000.0;
}

int main(int argc, char **argv)
{
    const char *file = NULL;
    double seconds = 1, warm = 0.2;
    for (int option; (option = getopt(argc, argv, "q:t:w:n:s:r:x:m:c:")) != -1;)
        switch (option) {
        case 'q': file = optarg; break;                               /* the questions */
        case 't': seconds = atof(optarg); break;                      /* the timed part */
        case 'w': warm = atof(optarg); break;                         /* seconds before it */
        case 'n': outstanding = atoi(optarg); break;                  /* closed loop: questions under way */
        case 's': way_count = atoi(optarg); break;                    /* sockets */
        case 'r': rate = atof(optarg); break;                         /* by the clock: questions a second */
        case 'x': in_case = (unsigned)atoi(optarg); break;            /* of 1000 questions, how many in random case */
        case 'm': miss_names = strtoull(optarg, NULL, 10); break;     /* distinct first labels of 12 hex digits */
        case 'c': watch_every = atoi(optarg); break;                  /* each Nth is the first question, watched */
        default: return 2;
        }
    if (!file || optind == argc || way_count < 1 || way_count > MOST_SOCKETS || outstanding < way_count)
        die("usage: load -q FILE -t SECONDS [options] ADDRESS:PORT ...");
    state = ((now_ns() * 2654435761u) ^ ((uint64_t)getpid() << 32)) | 1;
    miss_nonce = draw() >> 16;
    slots_each = rate > 0 ? MOST_SLOTS : outstanding / way_count;
    if (slots_each > MOST_SLOTS)
        slots_each = MOST_SLOTS;
    read_questions(file);
    open_ways(argv + optind, argc - optind);
    next_question = draw() % question_count;
    prctl(PR_SET_TIMERSLACK, 1);
    short_turns();
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (rate > 0) {
        times_room = (size_t)(rate * (seconds + 1)) + 16;
        times = calloc(times_room, sizeof *times);
        if (!times)
            die("memory");
    }
    uint64_t start = now_ns(), from = start + (uint64_t)(warm * 1e9), end = from + (uint64_t)(seconds * 1e9);
    if (rate > 0)
        by_the_clock(start, from, end);
    else
        closed_loop(from, end);
    uint64_t in_time = counted;
    for (uint64_t last = now_ns() + LATE; under_way && now_ns() < last;) /* the last answers */
        if (!receive_all(rate > 0))
            wait_for(20000000);
    missing += under_way;
    printf("{\"seconds\": %g, \"sent\": %llu, \"answered\": %llu, \"wrong\": %llu, \"missing\": %llu, \"stray\": %llu, "
           "\"rate\": %.1f", seconds, (unsigned long long)sent, (unsigned long long)answered,
           (unsigned long long)wrong, (unsigned long long)missing, (unsigned long long)stray,
           (double)in_time / seconds);
    if (rate > 0) {
        size_t count = counted < times_room ? counted : times_room;
        qsort(times, count, sizeof *times, smaller);
        printf(", \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"max\": %.1f", part(0.5), part(0.9), part(0.99),
               part(1));
    }
    printf("}\n");
    return 0;
}
