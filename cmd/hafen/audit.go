package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"hafen/gateway/audit"
)

// auditLog prints what an auditor asks for: the records of a period, in one file.
func auditLog(_ context.Context, w world, args []string) error {
	fs := flags(w, "audit")
	file := fs.String("config", "", "configuration `file`")
	from := fs.String("from", "", "first `day`, 2026-11-01, or a time in RFC 3339; default: all there is")
	to := fs.String("to", "", "last `day`, or a time; default: now")
	asJSON := fs.Bool("json", false, "a line of JSON a record, instead of CSV")
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	cfg, err := load(w, *file)
	if err != nil {
		return err
	}
	if cfg.Audit.File == "" {
		return errors.New("audit.file is not set: there are no records on this machine; ask the syslog server of audit.syslog, if that is set")
	}
	begin, err := auditTime(*from, time.Time{}, 0)
	if err != nil {
		return err
	}
	end, err := auditTime(*to, time.Now().Add(time.Minute), 24*time.Hour)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w.stdout)
	write, flush := auditCSV(out)
	if *asJSON {
		e := json.NewEncoder(out)
		write, flush = func(r audit.Record) error { return e.Encode(r) }, out.Flush
	}
	n := 0
	broken, err := audit.Read(cfg.Audit.File, begin, end, func(r audit.Record) error { n++; return write(r) })
	if err := errors.Join(err, flush()); err != nil {
		return err
	}
	fmt.Fprintf(w.stderr, "%d records of %s\n", n, cfg.Name)
	if broken > 0 {
		fmt.Fprintf(w.stderr, "%d lines are no records: what a crash or another hand has left\n", broken)
	}
	return nil
}

// auditTime reads a day or a time. A day that ends a period is meant whole.
func auditTime(text string, otherwise time.Time, wholeDay time.Duration) (time.Time, error) {
	if text == "" {
		return otherwise, nil
	}
	if day, err := time.ParseInLocation(time.DateOnly, text, time.Local); err == nil {
		return day.Add(wholeDay), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, fmt.Errorf("audit: %q is neither a day like 2026-11-01 nor a time like 2026-11-01T08:00:00Z: %w", text, errUsage)
	}
	return at, nil
}

// auditCSV writes records for a spreadsheet, a head line first.
func auditCSV(out *bufio.Writer) (write func(audit.Record) error, flush func() error) {
	c := csv.NewWriter(out)
	head := c.Write([]string{"time", "event", "client", "user", "target", "status", "seconds", "bytes", "detail"})
	write = func(r audit.Record) error {
		return c.Write([]string{
			r.Time.Format(time.RFC3339Nano), r.Event, r.Client, r.User, plainCell(r.Target), r.Status,
			strconv.FormatFloat(r.Seconds, 'f', -1, 64), strconv.FormatInt(r.Bytes, 10), plainCell(r.Detail),
		})
	}
	return write, func() error {
		c.Flush()
		return errors.Join(head, c.Error(), out.Flush())
	}
}

// plainCell keeps a spreadsheet from taking what a client wrote for a formula.
func plainCell(s string) string {
	if s != "" && (s[0] == '=' || s[0] == '+' || s[0] == '-' || s[0] == '@') {
		return "'" + s
	}
	return s
}
