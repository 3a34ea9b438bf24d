package main

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"
)

func TestParseUsage(t *testing.T) {
	stat := "42 (a) b (c) S 1 1 1 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 8 0 100 1000 200"
	u, err := parseUsage(stat, "Name:\tx\nVmRSS:\t   2048 kB\nThreads:\t3\n")
	if err != nil || u.cpu != 3*time.Second || u.rss != 2<<20 {
		t.Errorf("%+v %v", u, err)
	}
	for name, in := range map[string][2]string{
		"no stat": {"", "VmRSS: 1 kB"}, "short stat": {"42 (a) S 1", "VmRSS: 1 kB"}, "no memory": {stat, "Name: x\n"}, "odd number": {strings.Replace(stat, "250", "x", 1), "VmRSS: 1 kB"},
	} {
		if _, err := parseUsage(in[0], in[1]); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestResults(t *testing.T) {
	r := newResults()
	for i, v := range []float64{30, 10, 20} {
		r.put(wsCPU, true, v)
		r.put(wsCPU, false, 40)
		r.put(tunnelBulk, true, float64(i))
		r.put(tunnelBulk, false, 1)
	}
	r.put(pollMemory, true, 1) // nothing to compare it with
	rows := r.rows()
	if len(rows) != 2 || rows[0].Ratio != 0.5 || rows[1].Hafen != 1 {
		t.Fatalf("%+v", rows)
	}
	var out bytes.Buffer
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Count(text, "reached") != 1 || strings.Count(text, "missed") != 1 {
		t.Errorf("the table:\n%s", text)
	}
	if m := median([]float64{1, 4, 2, 3}); m != 2.5 {
		t.Errorf("the median of four is %v", m)
	}
}

// The load against a server that echoes: everything that is sent comes back, and is counted.
func TestLoad(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	go serveEcho(ln)
	var c crowd
	for range 3 {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c = append(c, conn)
	}
	defer c.close()
	if err := c.touch(); err != nil {
		t.Fatal(err)
	}
	took, err := c.talk(50, 200*time.Millisecond)
	if err != nil || len(took) < 3 || len(took) > 33 {
		t.Errorf("%d messages, %v", len(took), err)
	}
	n, err := c.bulk(200*time.Millisecond, 64<<10)
	if err != nil || n < 64<<10 || n%(16<<10) != 0 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestFileName(t *testing.T) {
	if got := fileName(tunnelBulk); got != "CONNECT--CPU-a-GB-echoed--s.pprof" {
		t.Error(got)
	}
}
