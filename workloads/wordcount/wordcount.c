/* wordcount: counts lines, words and bytes, as `wc` does. Plain C, which knows nothing of Lifeboat.
 *
 *   wordcount [FILE]...    counts each file, and all of them together; standard input if there is none
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

struct counts {
  unsigned long long lines, words, bytes;
};

static struct counts count(FILE *file) {
  struct counts counts = {0, 0, 0};
  int is_in_word = 0, c;
  while ((c = getc(file)) != EOF) {
    counts.bytes++;
    if (c == '\n') counts.lines++;
    if (isspace(c)) {
      is_in_word = 0;
    } else if (!is_in_word) {
      is_in_word = 1;
      counts.words++;
    }
  }
  return counts;
}

static void show(struct counts counts, const char *name) {
  printf("%7llu %7llu %7llu%s%s\n", counts.lines, counts.words, counts.bytes, name[0] == 0 ? "" : " ", name);
}

int main(int argc, char **argv) {
  if (argc < 2) {
    show(count(stdin), "");
    return 0;
  }
  struct counts total = {0, 0, 0};
  int has_failed = 0;
  for (int i = 1; i < argc; i++) {
    FILE *file = fopen(argv[i], "r");
    if (file == NULL) {
      fprintf(stderr, "%s: %s: %s\n", argv[0], argv[i], strerror(errno));
      has_failed = 1;
      continue;
    }
    struct counts counts = count(file);
    if (ferror(file)) {
      fprintf(stderr, "%s: %s: %s\n", argv[0], argv[i], strerror(errno));
      has_failed = 1;
    }
    fclose(file);
    show(counts, argv[i]);
    total.lines += counts.lines;
    total.words += counts.words;
    total.bytes += counts.bytes;
  }
  if (argc > 2) show(total, "total");
  return has_failed;
}
