/* sql: a database of SQLite, as a program.
 *
 * Standard input is SQL: any number of statements. Standard output is one JSON array with the rows of all of them, each
 * row an object by the names of its columns. Integers and reals are numbers, texts are strings, blobs are strings in
 * hexadecimal, NULL is null, and so is a real that JSON has no number for.
 *
 * The database is the file that the first argument names, `sql.db` by default. If a statement fails, the program prints
 * the reason alone and exits with 1. Then the service keeps the files as they were, so all statements of a transaction are
 * kept or none.
 *
 * The host is the journal: a transaction is kept as a whole or not at all, and what it has written is durable once it is
 * answered. So SQLite's own journal is in memory, and nothing is synced. Each connection is the only one.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sqlite3.h"

/* The most bytes of SQL that are read: those of a transaction's body. */
#define SQL_BYTES_MAX (1024 * 1024)

static const char SETTINGS[] =
    "PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE; PRAGMA foreign_keys=ON;";

/* What is printed once all statements have succeeded. */
static FILE *out;

static void put(int c) {
  fputc(c, out);
}

static int fail(sqlite3 *db, const char *what) {
  fprintf(stderr, "%s: %s\n", what, sqlite3_errmsg(db));
  return 1;
}

/* Writes a string of JSON. */
static void write_text(const unsigned char *text, int bytes) {
  put('"');
  for (int i = 0; i < bytes; i++) {
    unsigned char c = text[i];
    if (c == '"' || c == '\\') {
      put('\\');
      put(c);
    } else if (c < 0x20) {
      fprintf(out, "\\u%04x", c);
    } else {
      put(c);
    }
  }
  put('"');
}

static void write_value(sqlite3_stmt *statement, int column) {
  switch (sqlite3_column_type(statement, column)) {
    case SQLITE_INTEGER:
      fprintf(out, "%lld", sqlite3_column_int64(statement, column));
      break;
    case SQLITE_FLOAT: {
      double value = sqlite3_column_double(statement, column);
      char text[64];
      if (isfinite(value)) {
        /* SQLite's own conversion: 17 digits, and always a point or an exponent. */
        fputs(sqlite3_snprintf(sizeof text, text, "%!.17g", value), out);
      } else {
        fputs("null", out);
      }
      break;
    }
    case SQLITE_TEXT: {
      const unsigned char *text = sqlite3_column_text(statement, column);
      write_text(text, sqlite3_column_bytes(statement, column));
      break;
    }
    case SQLITE_BLOB: {
      const unsigned char *blob = sqlite3_column_blob(statement, column);
      int bytes = sqlite3_column_bytes(statement, column);
      put('"');
      for (int i = 0; i < bytes; i++) fprintf(out, "%02x", blob[i]);
      put('"');
      break;
    }
    default:
      fputs("null", out);
  }
}

static void write_row(sqlite3_stmt *statement) {
  int columns = sqlite3_column_count(statement);
  put('{');
  for (int column = 0; column < columns; column++) {
    const char *name = sqlite3_column_name(statement, column);
    if (column > 0) put(',');
    write_text((const unsigned char *)name, (int)strlen(name));
    put(':');
    write_value(statement, column);
  }
  put('}');
}

int main(int argc, char **argv) {
  const char *path = argc > 1 ? argv[1] : "sql.db";
  char *sql = malloc(SQL_BYTES_MAX + 1);
  if (sql == NULL) return fputs("there is no memory for the SQL\n", stderr), 1;
  size_t bytes = fread(sql, 1, SQL_BYTES_MAX + 1, stdin);
  if (bytes > SQL_BYTES_MAX) return fprintf(stderr, "the SQL has over %d bytes, the limit\n", SQL_BYTES_MAX), 1;
  if (memchr(sql, 0, bytes) != NULL) return fputs("the SQL has a zero byte; remove it\n", stderr), 1;
  sql[bytes] = 0;

  sqlite3 *db;
  if (sqlite3_open(path, &db) != SQLITE_OK) return fail(db, path);
  if (sqlite3_exec(db, SETTINGS, NULL, NULL, NULL) != SQLITE_OK) return fail(db, path);
  char *text;
  size_t length;
  out = open_memstream(&text, &length);
  if (out == NULL) return fputs("there is no memory for the rows\n", stderr), 1;
  put('[');
  int rows = 0, number = 0;
  for (const char *rest = sql; *rest != 0;) {
    char what[32];
    snprintf(what, sizeof what, "statement %d", ++number);
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(db, rest, -1, &statement, &rest) != SQLITE_OK) return fail(db, what);
    /* There is none after the last semicolon, and for a comment. */
    if (statement == NULL) continue;
    int result;
    while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
      if (rows++ > 0) put(',');
      write_row(statement);
    }
    if (result != SQLITE_DONE) return fail(db, what);
    sqlite3_finalize(statement);
  }
  fputs("]\n", out);
  if (sqlite3_close(db) != SQLITE_OK) return fail(db, path);
  if (fclose(out) != 0) return fputs("there is no memory for the rows\n", stderr), 1;
  return fwrite(text, 1, length, stdout) == length && fflush(stdout) == 0 ? 0 : 1;
}
