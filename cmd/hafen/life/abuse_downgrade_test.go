package life

import (
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAbuse_J14: a history that a later version has written in a format of its own is not touched. Tests are not kept, the status says why
// and what to do, and calls go on; moved away, it makes room for a new one, and put back it is what it was.
func TestAbuse_J14(t *testing.T) {
	t.Parallel()
	needs(t, "sqlite3")
	w := newWorld(t, nil)
	old := w.mustKeep()
	w.stop()
	w.sql(`ALTER TABLE precall_runs RENAME TO runs; PRAGMA user_version = 1`)
	file := filepath.Join(w.dir, "precall.db")
	unchanged := w.watchFile(file)
	w.start()
	l := w.startLoad(2, 1, 2, 10)
	if run, err := w.keep(w.visitor("127.0.0.1"), browserChecks()); err == nil || !strings.HasPrefix(err.Error(), "507 ") {
		t.Errorf("a test is kept in a history of another format: %v, %v", run, err)
	}
	const why = "a newer version of hafen has written it"
	if out, err := w.command("explain", old.Code); err == nil || !strings.Contains(out, why) {
		t.Errorf("hafen explain: %v: %s", err, out)
	}
	for _, words := range []string{why, file, "Go back to the newer version, or move the file away"} {
		if out, _ := w.command("status"); !strings.Contains(out, words) {
			t.Errorf("hafen status does not say %q:\n%s", words, out)
		}
	}
	if code, body, _ := ask(t, w.visitor("127.0.0.1"), "GET", "/precall/", nil); code != http.StatusOK {
		t.Errorf("the page: %d %.200s", code, body)
	}
	l.pause(time.Second)
	l.end(gapMost())
	unchanged("beside the running program")
	if err := os.Rename(file, file+".later"); err != nil {
		t.Fatal(err)
	}
	fresh := w.mustKeep() // without a restart
	w.stop()
	if err := os.Rename(file+".later", file); err != nil {
		t.Fatal(err)
	}
	unchanged("in the end")

	w.sql(`ALTER TABLE runs RENAME TO precall_runs; PRAGMA user_version = 0`)
	w.start()
	w.explains(old)
	if out, err := w.command("explain", fresh.Code); err == nil {
		t.Errorf("the other history's test is here: %s", out)
	}
	w.stop()

	// The authority, too, is never made anew over one that can't be read.
	file = filepath.Join(w.dir, "self-signed", "root.pem")
	if err := os.WriteFile(file, []byte("what a later version might write\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	unchanged = w.watchFile(file)
	if refused := w.tryStart(); !strings.Contains(refused, file) {
		t.Errorf("an authority that can't be read: %q", refused)
	}
	unchanged("after the refused start")
}

var previous = flag.String("previous", "", "the `commit` or tag that TestAbuse_J14Previous goes back to")

// TestAbuse_J14Previous: an earlier version takes over what this one has written, by a restart and by a hand-over: what was acknowledged is
// there, the authority is the same, and calls work; then this one takes over again. Or the earlier one refuses with a message, and harms nothing.
func TestAbuse_J14Previous(t *testing.T) {
	if *previous == "" {
		t.Skip("make downgrade-test builds an earlier version for it, from the repository's history")
	}
	earlier := buildPrevious(t)
	for name, change := range map[string]func(w *world, mine, to string) (refused string){"restart": restartAs, "hand-over": handOverTo} {
		t.Run(name, func(t *testing.T) {
			mine := filepath.Join(t.TempDir(), "hafen")
			copyFile(t, program, mine)
			w := layWorld(t, mine, nil)
			w.start()
			t.Cleanup(w.end)
			authority, runs := w.authority(), []keptRun{w.mustKeep(), w.mustKeep()}
			w.carriesCalls()
			unchanged := w.watchFile(filepath.Join(w.dir, "self-signed", "root.pem"))
			for _, version := range []string{earlier, program, earlier, program} {
				if refused := change(w, mine, version); refused != "" {
					if version == program || !strings.Contains(refused, "hafen") {
						t.Fatalf("refused without a message, or by this version: %q", refused)
					}
					t.Logf("the earlier version refuses: %s", refused)
					continue
				}
				if _, body := w.get("/metrics"); strings.Contains(body, `version="`+*previous+`"`) != (version == earlier) {
					t.Fatal("another version serves than was put in place")
				}
				w.explains(runs...)
				if again := w.authority(); again != authority {
					t.Errorf("another authority: %s, not %s", again, authority)
				}
				w.carriesCalls()
				runs = append(runs, w.mustKeep())
				unchanged(name)
			}
			if files, err := filepath.Glob(filepath.Join(w.dir, "*broken*")); err != nil || len(files) > 0 {
				t.Errorf("set aside: %v, %v", files, err)
			}
		})
	}
}

// restartAs ends the program, puts another in its place and starts that.
func restartAs(w *world, mine, to string) (refused string) {
	w.stop()
	copyFile(w.t, to, mine)
	return w.tryStart()
}

// handOverTo puts another program in the running one's place and has it take over.
func handOverTo(w *world, mine, to string) (refused string) {
	copyFile(w.t, to, mine)
	out, err := w.command("reload", "--follow")
	if err == nil && w.takePID(out) {
		return ""
	}
	if code, _ := w.get("/readyz"); code != http.StatusOK {
		w.t.Errorf("a hand-over is refused, and the program that stays answers %d", code)
	}
	return fmt.Sprint(out, err)
}

// buildPrevious builds the program as it was.
func buildPrevious(t *testing.T) (file string) {
	t.Helper()
	archive, err := exec.Command("git", "-C", treeRoot, "archive", *previous).Output()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("git archive %s: %v", *previous, err)
		}
		t.Skipf("%s is not in the history that is here: %v", *previous, err)
	}
	dir := t.TempDir()
	unpack := exec.Command("tar", "-x", "-C", dir)
	unpack.Stdin = bytes.NewReader(archive)
	build := exec.Command("go", "build", "-ldflags", "-X main.version="+*previous, "-o", "hafen.previous", "./cmd/hafen")
	build.Dir = dir
	for _, cmd := range []*exec.Cmd{unpack, build} {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", cmd.Args, err, out)
		}
	}
	return filepath.Join(dir, "hafen.previous")
}

// mustKeep sends a report that has to be kept.
func (w *world) mustKeep() keptRun {
	w.t.Helper()
	run, err := w.keep(w.visitor("127.0.0.1"), browserChecks())
	if err != nil {
		w.t.Fatalf("a test is not kept: %v\n%s", err, w.log)
	}
	return run
}

// explains wants runs to be found by their codes.
func (w *world) explains(runs ...keptRun) {
	w.t.Helper()
	for _, run := range runs {
		if out, err := w.command("explain", run.Code); err != nil || !strings.Contains(out, run.Code) {
			w.t.Errorf("%s is not there: %v: %s", run.Code, err, out)
		}
	}
}

// carriesCalls wants signaling and media to pass.
func (w *world) carriesCalls() {
	w.t.Helper()
	l := w.startLoad(1, 0, 2, 10)
	l.pause(time.Second)
	if l.received() == 0 || l.said.Load() == 0 {
		w.t.Error("no call passes")
	}
	l.end(gapMost())
}

// watchFile gives a function that says so where the file's bytes are not what they are now.
func (w *world) watchFile(file string) func(when string) {
	w.t.Helper()
	before, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	return func(when string) {
		w.t.Helper()
		if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before, after) {
			w.t.Errorf("%s %s is another: %v", when, file, err)
		}
	}
}
