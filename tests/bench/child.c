/* The child of every supervisor that is measured: says who it is and when its first instruction
   ran (CLOCK_MONOTONIC, ns), in one write to the end of a file; then sleeps, or ends with 1. */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct timespec now;
    char line[64];
    clock_gettime(CLOCK_MONOTONIC, &now);
    int size = snprintf(line, sizeof line, "%d %lld\n", getpid(),
                        now.tv_sec * 1000000000LL + now.tv_nsec);
    int file = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (file < 0 || write(file, line, size) != size) return 2;
    if (argc > 2) return 1;
    for (;;) pause();
}
