package precall

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// run is a record as the page makes them, at a time.
func run(code string, at time.Time) Record {
	rec := Record{ID: newID(), Code: code, Time: at, Network: netip.MustParsePrefix("10.2.3.0/24"), Lang: "de", Measurements: allFine(), Gateway: Gateway{Name: "gw.example", ClockAhead: time.Second}}
	rec.Result = Analyse(rec.Measurements.with(fails("call-server:websocket", "closed")), rec.Gateway, thresholds())
	return rec
}

func openStore(t *testing.T, o StoreOptions) *Store {
	t.Helper()
	s := OpenStore(o)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func TestStoreKeepsRuns(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	s := OpenStore(StoreOptions{Dir: dir, Now: clock})
	rec := run("K7QF-2M", now)
	must(t, s.Put(t.Context(), rec))
	if err := s.Put(t.Context(), run("K7QF-2M", now)); !errors.Is(err, ErrCodeTaken) {
		t.Error("a code was given twice:", err)
	}
	must(t, s.Close())
	s = openStore(t, StoreOptions{Dir: dir, Now: clock})
	for name, find := range map[string]func() (Record, error){
		"code": func() (Record, error) { return s.ByCode(t.Context(), "K7QF-2M") },
		"id":   func() (Record, error) { return s.ByID(t.Context(), rec.ID) },
	} {
		got, err := find()
		if err != nil || got.ID != rec.ID || got.Network != rec.Network || !got.Time.Equal(rec.Time) || got.Lang != "de" || got.Gateway.ClockAhead != time.Second {
			t.Errorf("by %s: %+v %v", name, got, err)
		}
		if !slices.EqualFunc(got.Result.Causes, rec.Result.Causes, func(a, b Finding) bool { return a.ID == b.ID && fmt.Sprint(a.Params) == fmt.Sprint(b.Params) }) {
			t.Errorf("by %s: causes %+v, want %+v", name, got.Result.Causes, rec.Result.Causes)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, storeFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Error("the file is open to others:", info.Mode(), err)
	}
	if _, err := s.ByCode(t.Context(), "AAAA-AA"); !errors.Is(err, ErrNoRun) {
		t.Error(err)
	}
}

func TestStoreCounts(t *testing.T) {
	now := time.Date(2026, 11, 3, 12, 0, 0, 0, time.Local)
	s := openStore(t, StoreOptions{Now: func() time.Time { return now }})
	for i, day := range []int{1, 1, 2} {
		rec := run(fmt.Sprint("C", i), time.Date(2026, 11, day, 9, i, 0, 0, time.Local))
		if i == 2 {
			rec.Site = "Clinic North"
		}
		must(t, s.Put(t.Context(), rec))
	}
	got, err := s.Counts(t.Context(), now.AddDate(0, 0, -7))
	must(t, err)
	want := []Count{
		{Day: "2026-11-01", Place: "10.2.3.0/24", Verdict: Warn, Cause: "websocket-blocked", Runs: 2},
		{Day: "2026-11-02", Place: "Clinic North", Verdict: Warn, Cause: "websocket-blocked", Runs: 1},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
	recent, err := s.Recent(t.Context(), 2)
	if err != nil || len(recent) != 2 || recent[0].Code != "C2" || recent[0].Place != "Clinic North" || recent[1].Code != "C1" {
		t.Errorf("recent: %+v %v", recent, err)
	}
}

// TestAbuse_F12: what is older than the retention is gone: for every query, and from the bytes of every file.
func TestAbuse_F12(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	s := openStore(t, StoreOptions{Dir: dir, History: time.Hour, Now: func() time.Time { return now }})
	var old []Record
	for i := range 40 {
		rec := run(fmt.Sprint("OLD-", i), now.Add(time.Duration(i)*time.Second))
		old = append(old, rec)
		must(t, s.Put(t.Context(), rec))
	}
	fresh := run("NEW-00", now.Add(50*time.Minute))
	must(t, s.Put(t.Context(), fresh))
	if !contains(t, dir, []byte(old[3].ID)) {
		t.Fatal("the control is not found: the test sees nothing")
	}
	now = now.Add(62 * time.Minute)
	if _, err := s.ByID(t.Context(), old[0].ID); !errors.Is(err, ErrNoRun) {
		t.Error("given out after its time:", err)
	}
	s.Sweep(t.Context())
	for _, rec := range old {
		data, err := rec.pack()
		must(t, err)
		for name, secret := range map[string][]byte{"id": []byte(rec.ID), "code": []byte(rec.Code), "run": data[len(data)/2:][:40]} {
			if contains(t, dir, secret) {
				t.Fatalf("the %s of %s is still on the disk", name, rec.Code)
			}
		}
	}
	if got, err := s.ByID(t.Context(), fresh.ID); err != nil || got.Code != "NEW-00" {
		t.Error("a younger run went too:", err)
	}
}

// contains looks through every file of a folder.
func contains(t *testing.T, dir string, what []byte) bool {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
		if bytes.Contains(data, what) {
			return true
		}
	}
	return false
}

// TestAbuse_H06: the file stays within its bound, the oldest runs go.
func TestAbuse_H06(t *testing.T) {
	dir := t.TempDir()
	const most = 128 << 10
	s := openStore(t, StoreOptions{Dir: dir, MaxBytes: most})
	start := time.Now().Add(-time.Hour)
	for i := range 200 {
		must(t, s.Put(t.Context(), run(fmt.Sprint("C", i), start.Add(time.Duration(i)*time.Second))))
		info, err := os.Stat(filepath.Join(dir, storeFile))
		must(t, err)
		if info.Size() > most+most/10 {
			t.Fatalf("after %d runs the file has %d bytes", i+1, info.Size())
		}
	}
	if _, err := s.ByCode(t.Context(), "C0"); !errors.Is(err, ErrNoRun) {
		t.Error("the oldest is still there:", err)
	}
	if _, err := s.ByCode(t.Context(), "C199"); err != nil {
		t.Error("the newest is gone:", err)
	}
}

func TestDamagedStoreIsSetAside(t *testing.T) {
	now := time.Now()
	damage := map[string]func(data []byte) []byte{
		"no database at all": func([]byte) []byte { return []byte(strings.Repeat("this is no database ", 1000)) },
		"a page of rubbish": func(data []byte) []byte {
			return slices.Concat(data[:4096], bytes.Repeat([]byte{0xa5}, len(data)-4096))
		},
		"cut short": func(data []byte) []byte { return data[:len(data)/2-7] },
	}
	for name, spoil := range damage {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, storeFile)
			s := OpenStore(StoreOptions{Dir: dir})
			for i := range 30 {
				must(t, s.Put(t.Context(), run(fmt.Sprint("C", i), now)))
			}
			must(t, s.Close())
			data, err := os.ReadFile(path)
			must(t, err)
			must(t, os.WriteFile(path, spoil(data), 0o600))
			var events []string
			s = openStore(t, StoreOptions{Dir: dir, History: time.Hour, Event: func(kind, _, advice string) { events = append(events, kind+" "+advice) }})
			must(t, s.Put(t.Context(), run("NEW", now)))
			if rec, err := s.ByCode(t.Context(), "NEW"); err != nil || rec.Code != "NEW" {
				t.Error(rec.Code, err)
			}
			aside, err := filepath.Glob(path + asideMark + "*")
			if err != nil || len(aside) != 1 || len(events) != 1 || !strings.Contains(events[0], EventStoreSetAside) || !strings.Contains(events[0], aside[0]) {
				t.Fatalf("set aside: %v, events: %q, %v", aside, events, err)
			}
			must(t, os.Chtimes(aside[0], now, now.Add(-2*time.Hour)))
			s.Sweep(t.Context())
			if _, err := os.Stat(aside[0]); !errors.Is(err, os.ErrNotExist) {
				t.Error("what was set aside is kept for ever:", err)
			}
		})
	}
}

var kills = flag.Int("kills", 8, "how often TestAbuse_H03 kills the keeper of the store")

// keeperDir tells the test binary that it is to keep runs in a folder until it is killed.
const keeperDir = "HAFEN_TEST_KEEPER_DIR"

func keepUntilKilled(dir string) {
	s := OpenStore(StoreOptions{Dir: dir})
	for {
		rec := run(newCode()+newCode(), time.Now())
		if err := s.Put(context.Background(), rec); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println(rec.ID) // acknowledged
	}
}

// TestAbuse_H03: a killed process has lost nothing that it had acknowledged, and the next one opens at once.
func TestAbuse_H03(t *testing.T) {
	dir := t.TempDir()
	var acknowledged []string
	for i := range *kills {
		acknowledged = append(acknowledged, keepAndKill(t, dir, 1+i*7%13)...)
	}
	start := time.Now()
	s := openStore(t, StoreOptions{Dir: dir, Event: func(kind, sentence, _ string) { t.Error(kind, sentence) }})
	opened := time.Since(start)
	for _, id := range acknowledged {
		if rec, err := s.ByID(t.Context(), id); err != nil || rec.ID != id || len(rec.Result.Checks) == 0 {
			t.Fatalf("of %d acknowledged runs %s is lost: %v", len(acknowledged), id, err)
		}
	}
	t.Logf("%d kills, %d acknowledged runs, all there; opened in %v", *kills, len(acknowledged), opened)
}

// keepAndKill lets a process keep runs and kills it after it has acknowledged so many, in the middle of whatever it does then.
func keepAndKill(t *testing.T, dir string, after int) (ids []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), keeperDir+"="+dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if !isID(lines.Text()) {
			t.Fatal("the keeper says:", lines.Text())
		}
		if ids = append(ids, lines.Text()); len(ids) == after {
			must(t, cmd.Process.Kill())
		}
	}
	_ = cmd.Wait() // killed
	return ids
}

// TestAbuse_H01: a full disk costs the runs that can't be kept, with 507 for the page and one event, and nothing else.
func TestAbuse_H01(t *testing.T) {
	dir := smallDisk(t)
	var events []string
	store := OpenStore(StoreOptions{Dir: dir, Event: func(kind, _, _ string) { events = append(events, kind) }})
	defer func() { must(t, store.Close()) }()
	_, srv := serve(t, Options{Name: "gw.example", Store: store})
	var kept []string
	put := func() int {
		resp, body := post(t, srv, allFine())
		if resp.StatusCode == http.StatusOK {
			kept = append(kept, field(t, body, "report", "id"))
		}
		return resp.StatusCode
	}
	if code := put(); code != http.StatusOK {
		t.Fatal("on an empty disk:", code)
	}
	for free := range int64(12) { // room for one page more each time: the write that fails is another one
		fill(t, dir, free*4096)
		if code := put(); code != http.StatusOK && code != http.StatusInsufficientStorage {
			t.Errorf("with %d pages free: %d", free, code)
		} else if free == 0 && code != http.StatusInsufficientStorage {
			t.Errorf("on a full disk: %d", code)
		}
		must(t, os.Remove(filepath.Join(dir, "ballast")))
	}
	if code := put(); code != http.StatusOK {
		t.Error("after the disk was freed:", code)
	}
	if events[0] != EventStoreFails || events[len(events)-1] != EventStoreWorks {
		t.Errorf("events: %v", events)
	}
	for _, id := range kept {
		if _, err := store.ByID(t.Context(), id); err != nil {
			t.Errorf("acknowledged and lost: %s: %v", id, err)
		}
	}
	if recent, err := store.Recent(t.Context(), 100); err != nil || len(recent) != len(kept) {
		t.Errorf("%d runs acknowledged, %d kept: %v", len(kept), len(recent), err)
	}
}

// TestStoreOpensLater: a store that can't be opened at the start is no reason not to start.
func TestStoreOpensLater(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	var events []string
	s := openStore(t, StoreOptions{Dir: dir, Event: func(kind, _, _ string) { events = append(events, kind) }})
	if err := s.Put(t.Context(), run("C1", time.Now())); err == nil {
		t.Fatal("kept in a folder that is not there")
	}
	must(t, os.Mkdir(dir, 0o700))
	must(t, s.Put(t.Context(), run("C2", time.Now())))
	if !slices.Equal(events, []string{EventStoreFails, EventStoreWorks}) {
		t.Errorf("events: %v", events)
	}
}

// smallDisk is a file system of 1 MB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		if os.Getuid() == 0 && os.Getenv("CI") == "true" {
			t.Fatal("no small disk:", err)
		}
		t.Skip("no small disk without root:", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

// fill leaves so many bytes free.
func fill(t *testing.T, dir string, free int64) {
	t.Helper()
	var fs syscall.Statfs_t
	must(t, syscall.Statfs(dir, &fs))
	size := max(0, int64(fs.Bfree)*fs.Bsize-free)
	must(t, os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, size), 0o600))
}
