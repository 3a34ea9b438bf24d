package e2e

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"hafen/cmd/internal/canary"
	"hafen/gateway/status"
)

// secrets are all those of this process: what goes into the configurations, the keys of the laboratories' authorities, what gateways have
// made in data_dir, passwords and cookies that were handed out. All that the program says is searched for them (abuse case G-03): its
// output when it ends, command lines and environments, what commands print, and each answer that get, exchange, closes and connect read.
var secrets = canary.New()

// defaultHash is nobody's: no password leads to it.
var defaultHash = "$argon2id$v=19$m=65536,t=3,p=2$ZXhhbXBsZS1zYWx0$" + secrets.Make("the password hash of the status page") + "ABCDEFGHIJK"

// filled puts secrets into the places of a configuration that are empty, as far as nothing runs otherwise for it.
func (l *laboratory) filled(cfg string) string {
	l.t.Helper()
	if *standing { // somebody is to look at it
		return cfg
	}
	if !strings.Contains(cfg, "\nadmin:") {
		cfg += fmt.Sprintf("admin: {users: [{name: canary, password_hash: %q}]}\n", defaultHash)
	}
	if !strings.Contains(cfg, "\nrelay:") {
		file := filepath.Join(l.dir, "unused.secret")
		must(l.t, os.WriteFile(file, []byte(ownSecret+"\n"), 0o600))
		cfg += fmt.Sprintf("relay: {secret_file: %q}\n", file)
	}
	return cfg
}

// hashed is what the configuration holds of a password.
func hashed(t testing.TB, password string) string {
	t.Helper()
	hash, err := status.HashPassword(secrets.Add("a password", password))
	must(t, err)
	must(t, secrets.Hash("a password's hash", hash))
	return hash
}

// ours runs one of the program's commands in a namespace, and searches what it prints.
func ours(t testing.TB, ns *namespace, args ...string) (string, error) {
	t.Helper()
	out, err := ns.command(t.Context(), hafenBinary, args...).CombinedOutput()
	secrets.Search(t, "hafen "+args[0], string(out))
	return string(out), err
}

var (
	dataDir    = regexp.MustCompile(`(?m)^data_dir: (\S+)`)
	cookies    = regexp.MustCompile(`(?im)^Set-Cookie: hafen_session=([^;\r\n]{12,})`)
	credential = regexp.MustCompile(`"credential": ?"([^"]{12,})"`)
)

// made takes in what a gateway has made in its data_dir. file is its configuration.
func made(t testing.TB, file string) {
	t.Helper()
	cfg, _ := os.ReadFile(file)
	if dir := dataDir.FindSubmatch(cfg); dir != nil {
		secrets.Folder(t, string(dir[1]))
	}
}

// searchAnswer searches an answer to a request for a path. A login hands out a cookie, and lists of ICE servers hand out passwords.
func searchAnswer(t testing.TB, path, answer string) {
	if t != nil {
		t.Helper()
	}
	var handsOut []string
	giving := map[string]*regexp.Regexp{"/status/login": cookies, "/api/v1/ice": credential, "/ice": credential}[path]
	if giving != nil {
		for _, match := range giving.FindAllStringSubmatch(answer, -1) {
			handsOut = append(handsOut, match[1])
		}
	}
	secrets.Search(t, "the answer to "+path, answer, handsOut...)
}

// pathOf is the path that a request is for.
func pathOf(request string) string {
	_, rest, _ := strings.Cut(request, " ")
	target, _, _ := strings.Cut(rest, " ")
	if u, err := url.Parse(target); err == nil {
		return u.Path
	}
	return ""
}

// end says what was searched. The scenarios' processes say so too, to this one.
func end(w io.Writer, code int) int {
	return secrets.End(w, code, canary.Whole() && os.Getenv(scenarioChild) == "")
}
