/* A load generator for STUN Binding servers on 127.0.0.1, and the limit of a client on one core.
 *
 *   load PORT SIZE SOCKETS SECONDS rate R      open loop: R probes a second over all sockets, isochronous
 *   load PORT SIZE SOCKETS SECONDS window W    closed loop: W probes of each socket on their way, as fast as it goes
 *
 * SIZE is 288 (the default probe, with PROBE-PADDING) or 20 (a bare Binding request). The first tenth of the time (at
 * most 1 s) is warm-up. Two lines of JSON on stdout: {"begin_ns": T} (CLOCK_MONOTONIC) when the warm-up is over, and the
 * result when the time is up and the last replies were waited for.
 *
 * A round-trip time runs from a reading of the clock just before the send to the kernel's receive timestamp, as in the
 * Python client. In the open loop a slot more than one interval late is skipped and counted as a timer miss, as there.
 * In the closed loop it polls without sleeping: a server must not pay for waking it up.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, RING = 64, EVENTS = 256, LARGEST = 288, REPLY = 2048, SUB_BITS = 5, BUCKETS = 64 << SUB_BITS };

static const uint32_t MAGIC_COOKIE = 0x2112A442;
static const uint16_t PROBE_PADDING = 0xC5A0;
static const int64_t SECOND = 1000000000;
static const int64_t GIVE_UP = 200000000; /* closed loop: what a silent socket has on its way is lost */

struct session {
  int fd;
  uint32_t next;        /* sequence number of the next probe */
  uint32_t outstanding; /* probes on their way */
  int64_t heard_ns;
  int64_t sent_ns[RING]; /* by sequence number modulo RING; 0: answered */
};

static struct session *sessions;
static uint64_t sent, received, lost, refused, stale, misses, histogram[BUCKETS];
static size_t size;
static struct sockaddr_in target = {.sin_family = AF_INET};

static void die(const char *what) {
  perror(what);
  exit(1);
}

static int64_t now_ns(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return now.tv_sec * SECOND + now.tv_nsec;
}

/* Log-linear: exact below 2^(SUB_BITS+1) ns, then 2^SUB_BITS buckets an octave (3 %). */
static unsigned bucket_of(uint64_t ns) {
  if (ns < 2u << SUB_BITS) return (unsigned)ns;
  unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - SUB_BITS;
  return (shift << SUB_BITS) + (unsigned)(ns >> shift);
}

static double middle_us(unsigned bucket) {
  if (bucket < 2u << SUB_BITS) return bucket / 1e3;
  unsigned shift = (bucket >> SUB_BITS) - 1;
  uint64_t low = (uint64_t)(bucket - (shift << SUB_BITS)) << shift;
  return (double)(low + (1ull << shift) / 2) / 1e3;
}

static double percentile_us(double share) {
  uint64_t total = 0, seen = 0;
  for (unsigned i = 0; i < BUCKETS; i++) total += histogram[i];
  for (unsigned i = 0; i < BUCKETS; i++) {
    seen += histogram[i];
    if (total && (double)seen >= share * (double)total) return middle_us(i);
  }
  return 0;
}

static void open_session(struct session *session, int epoll, uint32_t index) {
  session->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
  if (session->fd < 0) die("socket");
  int on = 1, buffer = 1 << 20;
  setsockopt(session->fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
  if (setsockopt(session->fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on)) die("SO_TIMESTAMPNS");
  struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(session->fd, (struct sockaddr *)&local, sizeof local)) die("bind");
  struct epoll_event event = {.events = EPOLLIN, .data.u32 = index};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, session->fd, &event)) die("epoll_ctl");
}

/* Send `count` probes (at most BATCH) of one session. */
static void send_probes(struct session *session, uint32_t index, unsigned count) {
  static unsigned char probes[BATCH][LARGEST];
  static struct iovec parts[BATCH];
  static struct mmsghdr messages[BATCH];
  if (!parts[0].iov_base) {
    for (unsigned i = 0; i < BATCH; i++) {
      uint16_t head[] = {htons(1), htons((uint16_t)(size - 20))};
      uint32_t cookie = htonl(MAGIC_COOKIE);
      memcpy(probes[i], head, 4);
      memcpy(probes[i] + 4, &cookie, 4);
      if (size > 20) {
        uint16_t padding[] = {htons(PROBE_PADDING), htons((uint16_t)(size - 24))};
        memcpy(probes[i] + 20, padding, 4);
      }
      parts[i] = (struct iovec){probes[i], size};
      messages[i].msg_hdr = (struct msghdr){
          .msg_name = &target, .msg_namelen = sizeof target, .msg_iov = &parts[i], .msg_iovlen = 1};
    }
  }
  for (unsigned i = 0; i < count; i++) {
    uint32_t id[] = {0xAF1D7E57, htonl(index), htonl(session->next + i)};
    memcpy(probes[i] + 8, id, 12);
  }
  int64_t at = now_ns(CLOCK_REALTIME);
  int done = sendmmsg(session->fd, messages, count, 0);
  if (done < (int)count) refused++;
  for (int i = 0; i < done; i++) session->sent_ns[session->next++ % RING] = at;
  if (done > 0) {
    session->outstanding += (unsigned)done;
    sent += (unsigned)done;
  }
}

/* Read what the socket holds, at most one batch; returns how many probes were answered. */
static unsigned read_replies(struct session *session, uint32_t index) {
  static unsigned char replies[BATCH][REPLY];
  static char ancillary[BATCH][CMSG_SPACE(sizeof(struct timespec))];
  static struct iovec parts[BATCH];
  static struct mmsghdr messages[BATCH];
  unsigned answered = 0;
  for (unsigned i = 0; i < BATCH; i++) {
    parts[i] = (struct iovec){replies[i], REPLY};
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i],
                                          .msg_iovlen = 1,
                                          .msg_control = ancillary[i],
                                          .msg_controllen = sizeof ancillary[i]};
  }
  int count = recvmmsg(session->fd, messages, BATCH, MSG_DONTWAIT, NULL);
  for (int i = 0; i < count; i++) {
    uint32_t id[3];
    uint16_t type;
    struct timespec at = {0};
    memcpy(&type, replies[i], 2);
    memcpy(id, replies[i] + 8, 12);
    uint32_t seq = ntohl(id[2]);
    struct cmsghdr *part = CMSG_FIRSTHDR(&messages[i].msg_hdr);
    if (part && part->cmsg_type == SCM_TIMESTAMPNS) memcpy(&at, CMSG_DATA(part), sizeof at);
    int64_t *sent_ns = &session->sent_ns[seq % RING];
    if (messages[i].msg_len < 20 || type != htons(0x0101) || ntohl(id[1]) != index || seq >= session->next ||
        session->next - seq > RING || !*sent_ns) {
      stale++;
      continue;
    }
    int64_t rtt_ns = at.tv_sec * SECOND + at.tv_nsec - *sent_ns;
    histogram[bucket_of(rtt_ns > 0 ? (uint64_t)rtt_ns : 0)]++;
    *sent_ns = 0;
    answered++;
    if (session->outstanding) session->outstanding--;
  }
  received += answered;
  return answered;
}

int main(int argc, char **argv) {
  if (argc != 7 || (strcmp(argv[5], "rate") && strcmp(argv[5], "window"))) {
    fprintf(stderr, "usage: load PORT SIZE SOCKETS SECONDS rate|window N\n");
    return 2;
  }
  target.sin_port = htons((uint16_t)atoi(argv[1]));
  target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  size = (size_t)atoi(argv[2]);
  uint32_t count = (uint32_t)atoi(argv[3]);
  int64_t duration_ns = (int64_t)(atof(argv[4]) * (double)SECOND);
  int closed = !strcmp(argv[5], "window");
  uint64_t number = strtoull(argv[6], NULL, 10), slot = 0;
  if ((size != 20 && size != LARGEST) || !count || !number || duration_ns <= 0 || (closed && number > RING)) {
    fprintf(stderr, "load: a size of 20 or %d, at least one socket, and a window of at most %d\n", LARGEST, RING);
    return 2;
  }

  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  int epoll = epoll_create1(0);
  sessions = calloc(count, sizeof *sessions);
  if (epoll < 0 || !sessions) die("start");
  for (uint32_t i = 0; i < count; i++) open_session(&sessions[i], epoll, i);

  int64_t start_ns = now_ns(CLOCK_MONOTONIC), end_ns = start_ns + duration_ns, begin_ns = 0;
  int64_t warm_ns = start_ns + (duration_ns / 10 < SECOND ? duration_ns / 10 : SECOND), checked_ns = start_ns;
  int64_t interval_ns = closed ? 0 : (int64_t)count * SECOND / (int64_t)number;
  uint64_t received_before = 0, sent_before = 0;
  struct rusage before = {0}, after;
  struct epoll_event events[EVENTS];

  for (;;) {
    int64_t now = now_ns(CLOCK_MONOTONIC);
    if (!begin_ns && now >= warm_ns) {
      begin_ns = now;
      received_before = received;
      sent_before = sent;
      memset(histogram, 0, sizeof histogram);
      getrusage(RUSAGE_SELF, &before);
      printf("{\"begin_ns\": %lld}\n", (long long)now);
      fflush(stdout);
    }
    if (now >= end_ns) break;
    int64_t wait_ns = 0;
    if (!closed) {
      int64_t due_ns;
      while ((due_ns = start_ns + (int64_t)((__int128)slot * SECOND / (int64_t)number)) <= now) {
        uint32_t index = (uint32_t)(slot++ % count);
        if (now - due_ns > interval_ns) misses++;
        else send_probes(&sessions[index], index, 1);
      }
      wait_ns = due_ns - now_ns(CLOCK_MONOTONIC);
      if (wait_ns < 0) wait_ns = 0;
    } else if (slot == 0 || now - checked_ns > GIVE_UP) {
      for (uint32_t i = 0; i < count; i++) {
        if (slot && now - sessions[i].heard_ns <= GIVE_UP) continue;
        sessions[i].outstanding = 0;
        sessions[i].heard_ns = now;
        send_probes(&sessions[i], i, (unsigned)number);
      }
      slot = 1;
      checked_ns = now;
    }
    struct timespec wait = {wait_ns / SECOND, wait_ns % SECOND};
    int ready = epoll_pwait2(epoll, events, EVENTS, &wait, NULL);
    for (int i = 0; i < ready; i++) {
      uint32_t index = events[i].data.u32;
      struct session *session = &sessions[index];
      read_replies(session, index);
      if (closed) {
        session->heard_ns = now;
        if (session->outstanding < number) send_probes(session, index, (unsigned)number - session->outstanding);
      }
    }
  }
  getrusage(RUSAGE_SELF, &after);
  int64_t stopped_ns = now_ns(CLOCK_MONOTONIC);
  uint64_t received_in_time = received - received_before, sent_in_time = sent - sent_before;
  /* The last replies. */
  for (int64_t now = stopped_ns; received < sent && now - stopped_ns < 300000000; now = now_ns(CLOCK_MONOTONIC)) {
    int ready = epoll_wait(epoll, events, EVENTS, 10);
    for (int i = 0; i < ready; i++) read_replies(&sessions[events[i].data.u32], events[i].data.u32);
  }
  lost = sent - received;
  double seconds = (double)(stopped_ns - begin_ns) / 1e9;
  double cpu_s = (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec) +
                 (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec) / 1e6;
  printf("{\"end_ns\": %lld, \"seconds\": %.6f, \"sent\": %llu, \"received\": %llu, \"lost\": %llu, \"refused\": %llu, "
         "\"stale\": %llu, \"timer_misses\": %llu, \"sent_per_s\": %.1f, \"received_per_s\": %.1f, \"cpu_s\": %.4f, "
         "\"p50_us\": %.2f, \"p90_us\": %.2f, \"p99_us\": %.2f, \"max_us\": %.2f}\n",
         (long long)stopped_ns, seconds, (unsigned long long)sent, (unsigned long long)received,
         (unsigned long long)lost, (unsigned long long)refused, (unsigned long long)stale, (unsigned long long)misses,
         (double)sent_in_time / seconds, (double)received_in_time / seconds, cpu_s, percentile_us(.5),
         percentile_us(.9), percentile_us(.99), percentile_us(1));
  return 0;
}
