package life

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hafen/cmd/internal/canary"
	"hafen/gateway/status"
)

// secrets are all those of this process: what goes into the configurations, what gateways have made in data_dir, passwords and cookies
// that were handed out. All that the program says is searched for them (abuse case G-03): its output when it ends, command lines and
// environments, what commands print, and each answer that world.get and ask read.
var secrets = canary.New()

var (
	cloudSecret   = secrets.Make("the TURN secret of the cloud")
	ownSecret     = secrets.Make("the gateway's TURN secret")
	nightPassword = secrets.Make("the password of the status page")
	// defaultHash is nobody's: no password leads to it.
	defaultHash = "$argon2id$v=19$m=65536,t=3,p=2$ZXhhbXBsZS1zYWx0$" + secrets.Make("the password hash of the status page") + "ABCDEFGHIJK"
)

// filled puts secrets into the places of a configuration that are empty.
func (w *world) filled(text string) string {
	w.t.Helper()
	put := func(name, secret string) string {
		file := filepath.Join(w.dir, name)
		if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
			w.t.Fatal(err)
		}
		return file
	}
	if !strings.Contains(text, "turn_credentials:") {
		text = strings.Replace(text, "    probes:", fmt.Sprintf("    turn_credentials: {secret_file: %q}\n    probes:", put("cloud.secret", cloudSecret)), 1)
	}
	if !strings.Contains(text, "\nrelay:") {
		text += fmt.Sprintf("relay: {secret_file: %q}\n", put("own.secret", ownSecret))
	}
	if !strings.Contains(text, "\nadmin:") {
		text += fmt.Sprintf("admin: {users: [{name: canary, password_hash: %q}]}\n", defaultHash)
	}
	return text
}

// withUser has anna log in with nightPassword.
func withUser(t *testing.T) func(string) string {
	t.Helper()
	hash, err := status.HashPassword(nightPassword)
	if err == nil {
		err = secrets.Hash("the password hash of the status page", hash)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func(text string) string {
		return text + fmt.Sprintf("admin: {users: [{name: anna, password_hash: %q}]}\n", hash)
	}
}

// look searches the command lines and the environments of the processes that run, and takes in what they have made in data_dir.
func (w *world) look() {
	w.t.Helper()
	secrets.Folder(w.t, w.dir)
	w.mu.Lock()
	pid := w.pid
	w.mu.Unlock()
	secrets.Process(w.t, "the gateway", pid)
	if first := w.cmd.Process.Pid; first != pid {
		secrets.Process(w.t, "the first gateway", first)
	}
}

// ours runs one of the program's commands, and searches what it prints.
func ours(t testing.TB, binary string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(binary, args...).CombinedOutput()
	secrets.Search(t, "hafen "+args[0], string(out))
	return string(out), err
}

// searchAnswer searches an answer to a request for a path. The login hands out a cookie.
func searchAnswer(t testing.TB, path string, header http.Header, body string) {
	t.Helper()
	var handsOut []string
	if path == "/status/login" {
		for _, c := range (&http.Response{Header: header}).Cookies() {
			if c.Value != "" {
				handsOut = append(handsOut, c.Value)
			}
		}
	}
	secrets.Search(t, "the answer to "+path, fmt.Sprint(header, body), handsOut...)
}
