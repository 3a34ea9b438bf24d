package defect

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

func TestCatch(t *testing.T) {
	var log bytes.Buffer
	count := 0
	c := &Catcher{Log: slog.New(slog.NewTextHandler(&log, nil)), Count: func() { count++ }}
	var told error
	try := func(c *Catcher, defect any, end func(error)) {
		defer c.Catch(end)
		if defect != nil {
			panic(defect)
		}
	}
	hear := func(err error) { told = err }
	if try(c, nil, hear); told != nil || count != 0 || log.Len() > 0 {
		t.Fatalf("without a panic: %v, %d, %s", told, count, &log)
	}
	try(c, "a slip", hear)
	var status interface{ Status() string }
	if told == nil || !strings.Contains(told.Error(), "a slip") || !errors.As(told, &status) || status.Status() != "err_protocol" {
		t.Errorf("told %v", told)
	}
	if count != 1 || !strings.Contains(log.String(), "a slip") || !strings.Contains(log.String(), "catch_test.go") {
		t.Errorf("%d counted, log %s", count, &log)
	}
	try(c, "a slip", func(error) { panic("another, while the first was tidied up") })
	if count != 3 || !strings.Contains(log.String(), "another") {
		t.Errorf("%d counted, log %s", count, &log)
	}
	try(c, "nobody to tell", nil)
	told = nil
	if try(nil, "a nil Catcher", hear); told == nil {
		t.Error("a nil Catcher tells nobody")
	}
}
