package life

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestAbuse_F12: what is older than precall.history is given out by no query from the moment on that it is, and with the next sweep it
// is in no file any more, down to its bytes. What is younger stays.
func TestAbuse_F12(t *testing.T) {
	t.Parallel()
	needs(t, "sqlite3")
	w := newWorld(t, withUser(t))
	var old, young []keptRun
	for i := range 8 {
		run, err := w.keep(w.visitor("127.0.0.1"), browserChecks())
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			old = append(old, run)
		} else {
			young = append(young, run)
		}
	}
	all, page := slices.Concat(old, young), w.helpdesk()
	given := func(when string, runs []keptRun, is bool) {
		t.Helper()
		for how, found := range w.findRuns(page, runs) {
			for i, run := range runs {
				if found[i] != is {
					t.Errorf("%s %s gives %s: %v", when, how, run.Code, found[i])
				}
			}
		}
	}
	given("at first", all, true)
	if n := w.runsInCSV(page); n != len(all) {
		t.Errorf("the CSV counts %d tests, not %d", n, len(all))
	}
	pieces := w.piecesOf(old, young)

	const past = 90*24*time.Hour + time.Minute // the default
	day := time.Now().Add(-past)
	w.sql(fmt.Sprintf(`UPDATE precall_runs SET at = %d, day = '%s' WHERE id IN ('%s')`, day.Unix(), day.Format(time.DateOnly), strings.Join(idsOf(old), "','")))
	given("after its time", old, false)
	given("after the others' time", young, true)
	if n := w.runsInCSV(page); n != len(young) {
		t.Errorf("the CSV counts %d tests, not %d", n, len(young))
	}

	w.stop()
	for i, run := range old {
		if n := w.inFiles(pieces[i]); n < 4 { // the control; what lies across two pages of the file is not found
			t.Fatalf("%d pieces of %s are found before the sweep: the search sees nothing", n, run.Code)
		}
	}
	w.start()
	page = w.helpdesk() // sessions are not kept
	for i, run := range old {
		if n := w.inFiles(pieces[i]); n > 0 {
			t.Errorf("%d of %d pieces of %s are still in data_dir", n, len(pieces[i]), run.Code)
		}
	}
	given("after the sweep", old, false)
	given("after the sweep", young, true)
	if left := w.sql(`SELECT COUNT(*) FROM precall_runs`); left != fmt.Sprint(len(young)) {
		t.Errorf("%s rows are left, want %d", left, len(young))
	}
}

// findRuns asks for runs in each way that there is, and tells of each run whether the way gives it.
func (w *world) findRuns(page func(string) string, runs []keptRun) map[string][]bool {
	w.t.Helper()
	found := make(map[string][]bool)
	lists := map[string]string{"the status page": page("/status/api/snapshot")}
	for _, days := range []string{"7", "30", "90"} {
		lists["the help desk's list of "+days+" days"] = page("/status/helpdesk/?days=" + days)
	}
	_, lists["/api/v1/status"] = w.get("/api/v1/status")
	lists["hafen status --json"], _ = w.command("status", "--json")
	for _, run := range runs {
		for how, text := range lists {
			found[how] = append(found[how], strings.Contains(text, run.Code))
		}
		for kind, name := range map[string]string{"code": run.Code, "id": run.ID} {
			out, err := w.command("explain", name)
			found["hafen explain by "+kind] = append(found["hafen explain by "+kind], err == nil && strings.Contains(out, run.Code))
			desk := page("/status/helpdesk/?code=" + name)
			found["the help desk by "+kind] = append(found["the help desk by "+kind], strings.Contains(desk, run.Code))
		}
		found["the verdict"] = append(found["the verdict"], strings.Contains(page("/api/v1/precall/"+run.ID), run.ID))
	}
	return found
}

// helpdesk logs in, and gives the text of pages; "" where they are not found.
func (w *world) helpdesk() func(path string) string {
	w.t.Helper()
	browser := w.visitor("127.0.0.9")
	_, _, h := ask(w.t, browser, "POST", "/status/login", credentials("anna", nightPassword))
	cookie, _, _ := strings.Cut(h.Get("Set-Cookie"), ";")
	return func(path string) string {
		w.t.Helper()
		code, body, _ := ask(w.t, browser, "GET", path, nil, "Cookie", cookie)
		switch code {
		case http.StatusOK:
			return body
		case http.StatusNotFound:
			return ""
		}
		w.t.Fatalf("%s: %d %.200s", path, code, body)
		return ""
	}
}

// runsInCSV sums up the help desk's table of the last 90 days.
func (w *world) runsInCSV(page func(string) string) (n int) {
	w.t.Helper()
	for line := range strings.Lines(page("/status/helpdesk/history.csv?days=90")) {
		if runs, err := strconv.Atoi(strings.TrimSpace(line[strings.LastIndexByte(line, ',')+1:])); err == nil {
			n += runs
		}
	}
	return n
}

// piecesOf are the bytes by which runs are recognised: their ids, their codes, and parts of what is packed that no other run has.
func (w *world) piecesOf(runs, others []keptRun) (pieces [][][]byte) {
	w.t.Helper()
	packed := func(run keptRun) []byte {
		data, err := hex.DecodeString(w.sql(`SELECT hex(run) FROM precall_runs WHERE id = '` + run.ID + `'`))
		if err != nil || len(data) == 0 {
			w.t.Fatalf("%s: %d bytes, %v", run.Code, len(data), err)
		}
		return data
	}
	var foreign []byte
	for _, run := range others {
		foreign = append(foreign, packed(run)...)
	}
	for _, run := range runs {
		own := [][]byte{[]byte(run.ID), []byte(run.Code)}
		for part := range slices.Chunk(packed(run), 24) {
			if len(part) == 24 && !bytes.Contains(foreign, part) {
				own = append(own, part)
			}
		}
		pieces = append(pieces, own)
	}
	return pieces
}

// inFiles tells how many pieces are in some file of data_dir.
func (w *world) inFiles(pieces [][]byte) (n int) {
	w.t.Helper()
	var all []byte
	err := filepath.WalkDir(w.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		all = append(all, data...)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, piece := range pieces {
		if bytes.Contains(all, piece) {
			n++
		}
	}
	return n
}

func idsOf(runs []keptRun) (ids []string) {
	for _, run := range runs {
		ids = append(ids, run.ID)
	}
	return ids
}

// browserChecks are as many as a browser makes, with something in each that no other report has.
func browserChecks() string {
	var checks []string
	for _, id := range []string{
		"secure-context", "browser", "camera", "microphone", "call-server:websocket", "call-server:longpoll", "relay:udp", "relay:tcp", "relay:tls",
		"relay:media", "rtt", "jitter", "loss",
	} {
		checks = append(checks, fmt.Sprintf(`{"id":%q,"result":"ok","detail":%q,"ms":1}`, id, rand.Text()))
	}
	return strings.Join(checks, ",")
}

// bound is the default size of the history's file.
const bound = 256 << 20

// TestAbuse_H06: a file as large as it may be. The program starts on it, takes reports, answers pages and carries calls meanwhile; the
// file stays within a tenth of its bound, and what goes is the oldest.
func TestAbuse_H06(t *testing.T) {
	needs(t, "sqlite3")
	w := newWorld(t, nil)
	first, err := w.keep(w.visitor("127.0.0.1"), browserChecks())
	if err != nil {
		t.Fatal(err)
	}
	w.stop()
	began := time.Now()
	w.start()
	empty := time.Since(began)
	w.stop()
	w.fillHistory(first)
	full, oldest := w.historySize(), w.sql(`SELECT code FROM precall_runs ORDER BY at LIMIT 1`)
	runs := w.sql(`SELECT COUNT(*) FROM precall_runs`)
	if full < bound-bound/100 {
		t.Fatalf("the file has %d bytes: it is not full", full)
	}

	began = time.Now()
	w.start()
	took := time.Since(began)
	t.Logf("%s runs in %d MiB: the start takes %s, without them %s", runs, full>>20, took.Round(time.Millisecond), empty.Round(time.Millisecond))
	if took > empty+5*time.Second {
		t.Error("the start waits for the history")
	}
	if out, err := w.command("explain", oldest); err != nil {
		t.Fatalf("the control: the oldest is not there: %v: %s", err, out)
	}
	l := w.startLoad(2, 1, 2, 20)
	stop := make(chan struct{})
	var slowestPage time.Duration
	var others sync.WaitGroup
	others.Go(func() {
		browser := w.visitor("127.0.0.3")
		for {
			select {
			case <-stop:
				return
			default:
			}
			asked := time.Now()
			for _, path := range []string{"/precall/", "/api/v1/precall/" + first.ID} {
				if resp, err := browser.Get("https://" + ownName + path); err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("%s: %v, %v", path, resp, err)
					return
				} else if err := resp.Body.Close(); err != nil {
					t.Error(err)
				}
			}
			slowestPage = max(slowestPage, time.Since(asked))
			time.Sleep(50 * time.Millisecond)
		}
	})
	var newest keptRun
	var slowestReport time.Duration
	largest := full
	for i := range 200 {
		asked := time.Now()
		if newest, err = w.keep(w.visitor(fmt.Sprint("127.0.1.", 1+i%30)), browserChecks()); err != nil {
			t.Fatal(err)
		}
		slowestReport = max(slowestReport, time.Since(asked))
		largest = max(largest, w.historySize())
	}
	close(stop)
	others.Wait()
	l.end(gapMost())
	t.Logf("200 more: %d MiB at most; the slowest report takes %s, the slowest two pages beside it %s", largest>>20, slowestReport.Round(time.Millisecond), slowestPage.Round(time.Millisecond))
	if largest > bound+bound/10 {
		t.Errorf("the file has %d bytes", largest)
	}
	if out, err := w.command("explain", oldest); err == nil {
		t.Errorf("the oldest is still there: %s", out)
	}
	if out, err := w.command("explain", newest.Code); err != nil {
		t.Errorf("the newest is gone: %v: %s", err, out)
	}
	w.stop()
	if size := w.historySize(); size > bound {
		t.Errorf("when it has ended the file has %d bytes", size)
	}
}

// fillHistory repeats a run, each time under an id and code of its own and 20 seconds after the one before, until the file is nearly as
// large as it may be. The run itself stays the newest.
func (w *world) fillHistory(run keptRun) {
	w.t.Helper()
	runs, size := int64(0), w.historySize()
	for _, more := range []func() int64{
		func() int64 { return 10_000 },
		func() int64 { return (bound - bound/1000 - w.historySize()) * runs / (w.historySize() - size) },
	} {
		n := more()
		w.sql(fmt.Sprintf(`PRAGMA synchronous = OFF; PRAGMA cache_size = -400000; BEGIN;
			WITH RECURSIVE n(i) AS (SELECT %d UNION ALL SELECT i+1 FROM n WHERE i < %d)
			INSERT INTO precall_runs SELECT lower(hex(randomblob(16))), printf('%%04d-%%02d', i/100, i%%100), at - 80*86400 + 20*i, day, place, verdict, cause, run
			FROM n, precall_runs WHERE id = '%s'; COMMIT`, runs+1, runs+n, run.ID))
		runs += n
	}
}

// historySize is what the history takes on the disk, with all that SQLite keeps beside it.
func (w *world) historySize() (n int64) {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(w.dir, "precall.db*"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err == nil { // a journal may be gone meanwhile
			n += info.Size()
		}
	}
	return n
}

// sql asks the history's file, whoever else has it open.
func (w *world) sql(text string) string {
	w.t.Helper()
	out, err := exec.Command("sqlite3", "-bail", "-cmd", ".timeout 10000", "-cmd", ".output /dev/null", "-cmd", "PRAGMA secure_delete = ON", "-cmd", ".output stdout", filepath.Join(w.dir, "precall.db"), text).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%.200s: %v: %s", text, err, out)
	}
	return strings.TrimSpace(string(out))
}

// stop ends the program and waits for that.
func (w *world) stop() {
	w.t.Helper()
	pid := w.cmd.Process.Pid // not w.pid, which is the next one's when this timer is late
	_ = syscall.Kill(pid, syscall.SIGTERM)
	now := time.AfterFunc(300*time.Millisecond, func() { _ = syscall.Kill(pid, syscall.SIGTERM) })
	defer now.Stop()
	_ = w.cmd.Wait()
}

// needs skips a test where a tool of others is missing; where everything has to be there it fails.
func needs(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("it takes %s: %v", tool, err)
	}
}
