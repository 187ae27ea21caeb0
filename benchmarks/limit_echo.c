/* The limit of a server on one core: the least that a STUN Binding server can do, in batches.
 *
 *   limit_echo REPLY_HEX [CHANGED_HEX AFTER]
 *
 * Answers every datagram of 20 bytes or more with the prepared reply, into which it copies the transaction id and, as
 * XOR-MAPPED-ADDRESS (which must be the first attribute), the request's source. Nothing is checked, nothing counted per
 * session. It binds 127.0.0.1 and runs until SIGTERM. Lines of JSON on stdout: {"port": P} when it is bound,
 * {"first_ns": T} at the first request, {"changed_ns": T} when, after AFTER replies, it goes over to the second reply
 * (T: CLOCK_MONOTONIC), {"answered": N} at the end.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, REQUEST = 2048, REPLY = 2048, TRANSACTION_ID = 8, XOR_PORT = 26, XOR_IP = 28 };

static const uint32_t MAGIC_COOKIE = 0x2112A442;

static volatile sig_atomic_t ended;

static void end(int number) {
  (void)number;
  ended = 1;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

static size_t unhex(const char *text, unsigned char *out) {
  size_t length = strlen(text) / 2;
  if (length > REPLY || length < XOR_IP + 4) {
    fprintf(stderr, "limit_echo: a reply of %zu bytes\n", length);
    exit(2);
  }
  for (size_t i = 0; i < length; i++) {
    unsigned byte;
    if (sscanf(text + 2 * i, "%2x", &byte) != 1) {
      fprintf(stderr, "limit_echo: not hexadecimal: %s\n", text);
      exit(2);
    }
    out[i] = (unsigned char)byte;
  }
  return length;
}

static void tell(const char *what) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  printf("{\"%s\": %lld}\n", what, now.tv_sec * 1000000000LL + now.tv_nsec);
  fflush(stdout);
}

int main(int argc, char **argv) {
  static unsigned char requests[BATCH][REQUEST], replies[BATCH][REPLY], changed[REPLY];
  static struct mmsghdr in[BATCH], out[BATCH];
  static struct iovec in_parts[BATCH], out_parts[BATCH];
  static struct sockaddr_in sources[BATCH];

  if (argc != 2 && argc != 4) {
    fprintf(stderr, "usage: limit_echo REPLY_HEX [CHANGED_HEX AFTER]\n");
    return 2;
  }
  size_t size = unhex(argv[1], replies[0]);
  size_t changed_size = argc == 4 ? unhex(argv[2], changed) : 0;
  unsigned long long change_after = argc == 4 ? strtoull(argv[3], NULL, 10) : 0, answered = 0;

  struct sigaction action = {.sa_handler = end};
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGINT, &action, NULL);

  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  if (fd < 0) die("socket");
  int buffer = 4 << 20;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
  struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof local;
  if (bind(fd, (struct sockaddr *)&local, length) || getsockname(fd, (struct sockaddr *)&local, &length)) die("bind");
  /* A signal between the look at `ended` and the read must not be slept through. */
  struct timeval tick = {.tv_usec = 200000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof tick);

  for (int i = 0; i < BATCH; i++) {
    memcpy(replies[i], replies[0], size);
    in_parts[i] = (struct iovec){requests[i], REQUEST};
    out_parts[i] = (struct iovec){replies[i], size};
    in[i].msg_hdr = (struct msghdr){.msg_name = &sources[i], .msg_iov = &in_parts[i], .msg_iovlen = 1};
    out[i].msg_hdr = (struct msghdr){
        .msg_name = &sources[i], .msg_namelen = sizeof sources[i], .msg_iov = &out_parts[i], .msg_iovlen = 1};
  }
  printf("{\"port\": %d}\n", ntohs(local.sin_port));
  fflush(stdout);

  int heard = 0;
  while (!ended) {
    for (int i = 0; i < BATCH; i++) in[i].msg_hdr.msg_namelen = sizeof sources[i];
    int count = recvmmsg(fd, in, BATCH, MSG_WAITFORONE, NULL);
    if (count < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      die("recvmmsg");
    }
    if (!heard) {
      heard = 1;
      tell("first_ns");
    }
    if (changed_size && answered >= change_after) {
      tell("changed_ns");
      for (int i = 0; i < BATCH; i++) {
        memcpy(replies[i], changed, changed_size);
        out_parts[i].iov_len = changed_size;
      }
      changed_size = 0;
    }
    for (int i = 0; i < count; i++) {
      uint16_t port = sources[i].sin_port ^ htons((uint16_t)(MAGIC_COOKIE >> 16));
      uint32_t ip = sources[i].sin_addr.s_addr ^ htonl(MAGIC_COOKIE);
      memcpy(replies[i] + TRANSACTION_ID, requests[i] + TRANSACTION_ID, 12);
      memcpy(replies[i] + XOR_PORT, &port, 2);
      memcpy(replies[i] + XOR_IP, &ip, 4);
    }
    /* A refused send (ENOBUFS) is a lost reply; the rest of the batch still goes out. */
    for (int done = 0; done < count;) {
      int sent = sendmmsg(fd, out + done, (unsigned)(count - done), 0);
      done += sent > 0 ? sent : 1;
      answered += sent > 0 ? (unsigned)sent : 0;
    }
  }
  printf("{\"answered\": %llu}\n", answered);
  return 0;
}
