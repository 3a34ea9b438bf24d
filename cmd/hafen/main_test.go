package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// hafen runs the program with a world of its own.
func hafen(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(context.Background(), world{args: args, stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs})
	return code, out.String(), errs.String()
}

func TestUsage(t *testing.T) {
	for name, tc := range map[string]struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		"nothing":          {nil, exitUsage, usage, ""},
		"help":             {[]string{"help"}, exitOK, usage, ""},
		"unknown command":  {[]string{"sevre"}, exitUsage, "", `there is no command "sevre"`},
		"unknown flag":     {[]string{"serve", "--confg", "x"}, exitUsage, "", "flag provided but not defined: -confg"},
		"word too many":    {[]string{"version", "now"}, exitUsage, "", `what is "now" for?`},
		"config of what":   {[]string{"config", "defaults"}, exitUsage, "", "say default, schema or show"},
		"no such file":     {[]string{"check", "--config", "/nowhere/hafen.yaml"}, exitFailed, "", "/nowhere/hafen.yaml"},
		"not self-signed":  {[]string{"ca", "--config", "-"}, exitFailed, "", "name"},
		"demo listens off": {[]string{"demo", "--listen", "8443"}, exitUsage, "", "write 127.0.0.1:8443"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := hafen(t, "", tc.args...)
			if code != tc.code || (tc.stdout != "" && stdout != tc.stdout) || !strings.Contains(stderr, tc.stderr) {
				t.Errorf("exit %d, stdout %q, stderr %q; want %d, %q, %q", code, stdout, stderr, tc.code, tc.stdout, tc.stderr)
			}
		})
	}
}

// TestCheckTenMistakes is the promise that a configuration is refused as a whole, every problem on a line of its own.
func TestCheckTenMistakes(t *testing.T) {
	file := `name: "gw hospital"
clients: [10.0.0.1/8]
listn: {https: [":443"]}
listen: {metrics: "127.0.0.1:99443"}
tls: {source: letsencrypt}
services:
  - name: calls
    hosts: ["call.example.net:443"]
    choose: best
    regions: [{name: fra, urls: ["turn:fra.example.net:3478?transport=quic"]}]
relay: {mode: bridge, rungs: [udp, quic]}
forward: {allow: ["10.1.2.3:443"]}
log: {level: loud}
`
	code, stdout, _ := hafen(t, file, "check", "--config", "-")
	if code != exitFailed {
		t.Errorf("exit %d, want %d", code, exitFailed)
	}
	for _, key := range []string{"name", "clients", "listn", "listen.metrics", "tls.source", "services[0].hosts", "services[0].choose", "services[0].regions[0].urls", "relay.rungs", "log.level"} {
		found := false
		for _, line := range strings.Split(stdout, "\n") {
			found = found || strings.Contains(line, key)
		}
		if !found {
			t.Errorf("no line names %s:\n%s", key, stdout)
		}
	}
	if lines := strings.Count(stdout, "\n"); lines < 10 {
		t.Errorf("%d lines for ten mistakes:\n%s", lines, stdout)
	}
}

func TestPasswdPrintsAHash(t *testing.T) {
	code, stdout, stderr := hafen(t, "correct horse battery staple\n", "passwd")
	if code != exitOK || !strings.HasPrefix(stdout, "$argon2id$v=19$m=65536,t=3,p=1$") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}
