package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"hafen/configs"
)

var update = flag.Bool("update", false, "write the generated pages of the manual")

const configurePage = "../../packaging/doc/configure.md"

// TestManualConfigure holds the manual's page of keys to the commented default file, which is what the program itself prints.
// To write it anew: go test ./cmd/hafen -run TestManualConfigure -update.
func TestManualConfigure(t *testing.T) {
	want := configureManual(string(configs.DefaultYAML()))
	if *update {
		if err := os.WriteFile(configurePage, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(configurePage)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("packaging/doc/configure.md is not what configs/default.yaml says: go test ./cmd/hafen -run TestManualConfigure -update")
	}
	if n := bytes.Count(got, []byte("\n| `")); n < 100 {
		t.Errorf("%d keys in the manual, want all of them", n)
	}
}

var (
	commentLine = regexp.MustCompile(`^ *## ?(.*)$`)
	keyLine     = regexp.MustCompile(`^( *)(- )?([a-z_0-9]+):(?: +(.*))?$`)
)

// configureManual turns the commented default file into a page: a heading for each section, a table of its keys.
func configureManual(yaml string) []byte {
	var out bytes.Buffer
	out.WriteString(configureHead)
	var comment []string
	var path []string // keys above the line, by depth
	var depths []int
	section, headDone := "", false
	for _, line := range strings.Split(yaml, "\n") {
		if rest, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "# "); ok {
			line = line[:len(line)-len(strings.TrimLeft(line, " "))] + rest
		}
		if strings.TrimSpace(line) == "" {
			comment, headDone = nil, true
			continue
		}
		if m := commentLine.FindStringSubmatch(line); m != nil {
			if headDone {
				comment = append(comment, m[1])
			}
			continue
		}
		m := keyLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		depth := len(m[1]) + len(m[2])
		for len(depths) > 0 && depths[len(depths)-1] >= depth {
			depths, path = depths[:len(depths)-1], path[:len(path)-1]
		}
		if m[2] != "" && len(path) > 0 && !strings.HasSuffix(path[len(path)-1], "[]") {
			path[len(path)-1] += "[]" // a list's member
		}
		depths, path = append(depths, depth), append(path, m[3])
		if path[0] != section && !strings.HasPrefix(path[0], section+"[") || section == "" {
			section = path[0]
			fmt.Fprintf(&out, "\n## %s\n\n%s\n\n| key | default or example | |\n|---|---|---|\n", section, strings.Join(comment, " "))
			if m[4] == "" {
				comment = nil
				continue
			}
			comment = []string{"see above"}
		}
		if m[4] == "" && m[2] == "" && len(path) > 1 {
			fmt.Fprintf(&out, "| `%s` | | %s |\n", strings.Join(path, "."), cell(strings.Join(comment, " ")))
			comment = nil
			continue
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s |\n", strings.Join(path, "."), code(m[4]), cell(strings.Join(comment, " ")))
		comment = nil
	}
	return out.Bytes()
}

func code(value string) string {
	value, _, _ = strings.Cut(value, "  #")
	if value = strings.TrimSpace(value); value == "" {
		return ""
	}
	return "`" + cell(value) + "`"
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

const configureHead = `# Configure

One YAML file, ` + "`./hafen.yaml` or `/etc/hafen/hafen.yaml`, or what `--config` names (`-`" + ` is standard input). The least that runs a
real service is ` + "`name`, one service with `hosts` and `regions`" + `, and a certificate that browsers trust.

    hafen config default > hafen.yaml       # every key, with its default and this text
    hafen config schema > hafen.schema.json # for editors
    hafen check --config hafen.yaml         # every problem: key, what is wrong, what to write instead
    hafen config show --config hafen.yaml   # what is in effect, secrets masked

- A configuration is accepted or refused as a whole. An unknown key is an error that names the nearest real one.
- A list with one member may be written as that member.
- Environment variables override single values and comma-separated lists: ` + "`HAFEN_LISTEN_HTTPS=\":443,:8443\"`" + `.
- Durations are written ` + "`250ms`, `30s`, `5m`, `1h`" + `; bandwidths ` + "`600kbit`, `4mbit`" + `.
- Secrets are better in files (` + "`..._file`" + `) than in the configuration. A key file that everybody on the machine can read is refused.
- ` + "`[]`" + ` in a key's name is a member of a list. An empty row takes its text from the row above it.

This page is generated from the program's own default file.
`

// TestManualDependencies holds the list of what the program is made of to go.mod.
func TestManualDependencies(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../packaging/doc/decisions/0003-dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	direct := regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(string(mod), -1)
	for _, m := range direct {
		if !strings.Contains(string(page), "`"+m[1]+"`") {
			t.Errorf("packaging/doc/decisions/0003-dependencies.md has no word on %s", m[1])
		}
	}
	if len(direct) < 20 {
		t.Errorf("%d direct dependencies found", len(direct))
	}
}
