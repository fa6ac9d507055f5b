package main

import (
	"strings"
	"testing"
)

func reply(t *testing.T, counter *Counter, body string) string {
	t.Helper()
	bytes, err := counter.Execute(Context{}, []byte(body))
	if err != nil {
		return "refused"
	}
	return string(bytes)
}

func TestNumbersAreAdded(t *testing.T) {
	var counter Counter
	if first, second := reply(t, &counter, "5"), reply(t, &counter, "-2"); first != "5" || second != "3" {
		t.Fatal(first, second)
	}
}

func TestAnyOtherBodyIsRefusedAndChangesNothing(t *testing.T) {
	counter := Counter{Total: 3}
	deep := strings.Repeat("[", 10_000)
	for _, body := range []string{deep, "", "null", " null\n", "\"five\"", "1.5", "{}", "9223372036854775807"} {
		if got := reply(t, &counter, body); got != "refused" || counter.Total != 3 {
			t.Fatal(body, got, counter)
		}
	}
}

func TestStateSurvivesAFailover(t *testing.T) {
	counter := Counter{Total: 7}
	state, err := counter.Save()
	if err != nil {
		t.Fatal(err)
	}
	var moved Counter
	if err := moved.Load(StateVersion, state); err != nil || moved != counter {
		t.Fatal(moved, err)
	}
}
