package life

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAbuse_H02: the disk fails under the running program, in each way that a disk has. A report that could not be kept is not
// acknowledged, one that was acknowledged is there after a kill, calls go on, and when the disk is well again so is the gateway.
func TestAbuse_H02(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("it is strace that makes system calls fail: %v", err)
	}
	for _, fault := range []string{
		"fsync,fdatasync:error=EIO:when=2+5",
		"pwrite64:error=ENOSPC:when=7+29",
		"pwrite64:error=EDQUOT",
		"pwrite64,ftruncate,renameat,renameat2,unlinkat:error=EROFS:when=5+23",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			l := w.startLoad(2, 0, 2, 20)
			acknowledged := w.reports(t, 3)
			if len(acknowledged) != 3 {
				t.Fatal("the control: a report was refused by a disk that is well")
			}
			mend := w.inject(t, fault)
			kept := w.reports(t, 15)
			mend()
			w.until("reports to be kept again", time.Minute, func() bool {
				code, err := w.report()
				acknowledged = append(acknowledged, code)
				return err == nil
			})
			l.end(0)
			t.Logf("%d of 15 reports were acknowledged", len(kept))
			if len(kept) == 15 {
				t.Error("no report was refused: nothing was tried")
			}
			w.signal(syscall.SIGKILL)
			_ = w.cmd.Wait()
			w.start()
			for _, code := range append(acknowledged, kept...) {
				if out, err := w.command("explain", code); code != "" && err != nil {
					t.Errorf("the report %s was acknowledged and is not there: %v: %s", code, err, out)
				}
			}
		})
	}
}

// reports sends n of them, and returns the codes of those that were acknowledged. The others have to be told that the disk is at fault.
func (w *world) reports(t *testing.T, n int) (codes []string) {
	t.Helper()
	for range n {
		code, err := w.report()
		if err == nil {
			codes = append(codes, code)
		} else if !strings.HasPrefix(err.Error(), "507 ") {
			t.Errorf("a report that was not kept: %v", err)
		}
	}
	return codes
}

// inject makes system calls of the running program fail, until mend is called.
func (w *world) inject(t *testing.T, fault string) (mend func()) {
	t.Helper()
	calls, _, _ := strings.Cut(fault, ":")
	cmd := exec.Command("strace", "-f", "-o", os.DevNull, "-e", "trace="+calls, "-e", "inject="+fault, "-p", fmt.Sprint(w.pid))
	said, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil || !strings.Contains(line, "attached") {
		t.Fatalf("strace: %q, %v", line, err)
	}
	go func() { _, _ = io.Copy(io.Discard, said) }()
	return func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
	}
}
