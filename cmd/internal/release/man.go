package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// manPages writes hafen(1) from the program's help and hafen.yaml(5) from the manual's page of keys, which is itself made from the
// default file's comments.
func (r *release) manPages(ctx context.Context) error {
	title, commands, err := r.usage(ctx)
	if err != nil {
		return err
	}
	if err := r.writeGzip("man/hafen.1.gz", r.commandPage(title, commands)); err != nil {
		return err
	}
	keys, err := os.ReadFile("packaging/doc/configure.md")
	if err != nil {
		return err
	}
	return r.writeGzip("man/hafen.yaml.5.gz", r.keysPage(string(keys)))
}

// writeGzip writes a file to the stage, compressed, with neither name nor time in it.
func (r *release) writeGzip(name string, data []byte) error {
	packed, err := gzipped(data)
	if err != nil {
		return err
	}
	return r.stage(name, packed)
}

func (r *release) stage(name string, data []byte) error {
	file := r.path("stage", name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}

func (r *release) commandPage(title string, commands []usageCommand) []byte {
	var m bytes.Buffer
	fmt.Fprintf(&m, ".TH HAFEN 1 %q %q\n.ad l\n.SH NAME\nhafen \\- %s\n", r.date.Format("2006-01-02"), "hafen "+r.version, roff(title))
	m.WriteString(".SH SYNOPSIS\n.B hafen\n.I command\n[\\fIflags\\fR] [\\fIwords\\fR]\n")
	m.WriteString(".SH DESCRIPTION\nOne program on port 443 that carries HTTPS, WebSocket and long-poll signaling, TURN and a CONNECT proxy,\n" +
		"and says plainly what is wrong. It is configured by one file,\n.BR hafen.yaml (5).\n.SH COMMANDS\n")
	for _, c := range commands {
		fmt.Fprintf(&m, ".TP\n\\fBhafen %s\\fR %s\n%s.\n", roff(c.name), roff(c.words), roff(strings.ToUpper(c.about[:1])+strings.TrimSuffix(c.about[1:], ".")))
		for _, f := range c.flags {
			fmt.Fprintf(&m, ".RS\n.TP\n\\fB\\-\\-%s\\fR \\fI%s\\fR\n%s\n.RE\n", roff(f.name), roff(f.value), roff(f.about))
		}
	}
	m.WriteString(manEnd)
	return m.Bytes()
}

const manEnd = `.SH EXIT STATUS
0 fine, 1 the thing asked for failed, 2 usage.
.SH SIGNALS
.TP
.B SIGHUP
Reads the configuration and the certificates again.
.TP
.B SIGTERM
Drains: takes nothing new, lets live sessions go on for at most \fBdrain\fR, then ends. A second one ends at once.
.SH ENVIRONMENT
A variable \fBHAFEN_SECTION_KEY\fR overrides a single value or a list of the configuration.
.SH FILES
.TP
.I /etc/hafen/hafen.yaml
The configuration, where no \fB\-\-config\fR names another and no \fIhafen.yaml\fR lies in the current folder.
.TP
.I /var/lib/hafen
Keys, certificates and reports that must survive a restart.
.TP
.I /run/hafen/hafen.sock
The control socket, through which \fBhafen status\fR and others ask the running gateway.
.TP
.I /usr/share/doc/hafen
The administrator's manual.
.SH SEE ALSO
.BR hafen.yaml (5),
.BR systemctl (1)
`

// keysPage turns the manual's page of keys into a man page: headings become sections, rows of the tables become terms.
func (r *release) keysPage(markdown string) []byte {
	var m bytes.Buffer
	fmt.Fprintf(&m, ".TH HAFEN.YAML 5 %q %q\n.ad l\n.SH NAME\nhafen.yaml \\- configuration of the Hafen gateway\n.SH DESCRIPTION\n", r.date.Format("2006-01-02"), "hafen "+r.version)
	for _, line := range strings.Split(markdown, "\n") {
		switch {
		case strings.HasPrefix(line, "# "), strings.HasPrefix(line, "| key |"), strings.HasPrefix(line, "|---"):
		case strings.HasPrefix(line, "## "):
			fmt.Fprintf(&m, ".SH %s\n", strings.ToUpper(roff(line[3:])))
		case strings.HasPrefix(line, "| "):
			cells := strings.Split(strings.ReplaceAll(strings.Trim(line, "| "), `\|`, "\x00"), " | ")
			for len(cells) < 3 {
				cells = append(cells, "")
			}
			fmt.Fprintf(&m, ".TP\n\\fB%s\\fR", roff(plain(cells[0])))
			if v := plain(cells[1]); v != "" && v != "|" {
				fmt.Fprintf(&m, " (%s)", roff(v))
			}
			fmt.Fprintf(&m, "\n%s\n", orNothing(roff(plain(strings.Trim(cells[2], "| ")))))
		case strings.HasPrefix(line, "    "):
			fmt.Fprintf(&m, ".EX\n%s\n.EE\n", roff(line))
		case strings.HasPrefix(line, "- "):
			fmt.Fprintf(&m, ".IP \\(bu 2\n%s\n", roff(plain(line[2:])))
		case line == "":
			m.WriteString(".PP\n")
		default:
			fmt.Fprintf(&m, "%s\n", roff(plain(line)))
		}
	}
	m.WriteString(".SH SEE ALSO\n.BR hafen (1)\n")
	return bytes.ReplaceAll(m.Bytes(), []byte(".PP\n.PP\n"), []byte(".PP\n"))
}

// orNothing keeps a term without a text from swallowing the next line.
func orNothing(text string) string {
	if text == "" {
		return `\&`
	}
	return text
}

// plain takes Markdown's marks away.
func plain(s string) string {
	return strings.ReplaceAll(strings.NewReplacer("`", "", "**", "", "\x00", "|").Replace(strings.TrimSpace(s)), `\|`, "|")
}

// roff escapes what troff would take for its own.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...", "→", `\(->`, "≥", ">=", "≤", "<=", "–", `\(en`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
