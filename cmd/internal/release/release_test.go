package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const help = `hafen: a gateway for calls where only port 443 is open

  hafen serve   [--config FILE]           run the gateway
  hafen config  default|schema|show       the commented default; the schema
  hafen explain CODE                      both sides of one test
  hafen pac     [--url URL] [--verify FILE|URL]   the PAC file; what it answers; the lines for the
                                          company's own PAC file
  hafen ca                                the root, for browsers to trust
  hafen version

Exit codes: 0 fine.
`

func TestUsage(t *testing.T) {
	title, commands := parseUsage(help)
	if title != "a gateway for calls where only port 443 is open" || len(commands) != 6 {
		t.Fatalf("%q %+v", title, commands)
	}
	for i, want := range []usageCommand{
		{name: "serve", words: "[--config FILE]", about: "run the gateway"},
		{name: "config", words: "default|schema|show", about: "the commented default; the schema"},
		{name: "explain", words: "CODE", about: "both sides of one test"},
		{name: "pac", words: "[--url URL] [--verify FILE|URL]", about: "the PAC file; what it answers; the lines for the company's own PAC file"},
		{name: "ca", about: "the root, for browsers to trust"},
		{name: "version", about: "print the version"},
	} {
		if got := commands[i]; got.name != want.name || got.words != want.words || got.about != want.about {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	flags := parseFlags("Usage of hafen csr:\n  -out directory\n    \tdirectory for gw.key (default \".\")\n  -rsa\n    \tan RSA key\n")
	if len(flags) != 2 || flags[0] != (usageFlag{"out", "directory", `directory for gw.key (default ".")`}) || flags[1] != (usageFlag{"rsa", "", "an RSA key"}) {
		t.Errorf("%+v", flags)
	}
}

// The versions must be in the order in which dpkg and rpm see them: before the first tag, the tag, after it.
func TestPackageVersion(t *testing.T) {
	date := time.Date(2026, 11, 27, 23, 5, 0, 0, time.UTC)
	for version, want := range map[string]string{
		"df4d770": "0~20261127.2305.df4d770", "df4d770-dirty": "0~20261127.2305.df4d770.dirty", "v1.2.0": "1.2.0", "v1.2.0-3-gdf4d770": "1.2.0+3.gdf4d770", "dev": "0~20261127.2305.dev",
	} {
		if got := packageVersion(version, date); got != want {
			t.Errorf("%s: %s, want %s", version, got, want)
		}
	}
}

func TestMaintainer(t *testing.T) {
	for text, want := range map[string]string{
		nobody: nobody, "Jo Doe <jo@hospital.example>": "Jo Doe <jo@hospital.example>", "jo@hospital.example": "", "Jo": "", "": "",
		"Jo \n Doe <jo@hospital.example>": "", "Jo: Doe <jo@x": "",
	} {
		if got, err := validMaintainer(text); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q %v, want %q", text, got, err, want)
		}
	}
}

// TestShells has each shell that is here read its completion, and bash complete with it.
func TestShells(t *testing.T) {
	_, commands := parseUsage(help)
	commands[0].flags = []usageFlag{{"config", "file", "the house's file"}}
	dir := t.TempDir()
	for shell, script := range map[string][]byte{"bash": bash(commands), "zsh": zsh(commands), "fish": fish(commands)} {
		file := dir + "/" + shell
		if err := os.WriteFile(file, script, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := exec.LookPath(shell); err != nil {
			t.Logf("%s is not here: its completion was not read", shell)
			continue
		}
		if out, err := exec.Command(shell, "-n", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s\n%s", shell, err, out, script)
		}
	}
	for line, want := range map[string]string{"hafen se": "serve", "hafen config s": "schema show", "hafen serve --c": "--config"} {
		ask := `. ` + dir + `/bash; COMP_WORDS=(` + line + `); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _hafen; echo "${COMPREPLY[*]}"`
		out, err := exec.Command("bash", "-c", ask).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%s: %q %v, want %q", line, out, err, want)
		}
	}
}

// TestManual has man read both pages without a warning.
func TestManual(t *testing.T) {
	r := &release{version: "v1.2.0", date: time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)}
	title, commands := parseUsage(help)
	keys, err := os.ReadFile("../../../packaging/doc/configure.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, page := range map[string][]byte{"hafen.1": r.commandPage(title, commands), "hafen.yaml.5": r.keysPage(string(keys))} {
		if bytes.Contains(page, []byte("**")) || bytes.Contains(page, []byte("| `")) {
			t.Errorf("%s has Markdown in it", name)
		}
		if _, err := exec.LookPath("man"); err != nil {
			t.Skip("man is not here: the pages were not read")
		}
		file := t.TempDir() + "/" + name
		if err := os.WriteFile(file, page, 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", file)
		var complaints bytes.Buffer
		cmd.Stderr, cmd.Env = &complaints, append(os.Environ(), "MANROFFSEQ=", "MANWIDTH=80")
		if err := cmd.Run(); err != nil || complaints.Len() > 0 {
			t.Errorf("%s: %v %s", name, err, complaints.String())
		}
	}
}
