// Release makes what is given out of the gateway: static binaries, deb and rpm packages, a container image, and beside them
// the bill of materials and the checksums.
//
//	go run ./cmd/internal/release [-version V] [-maintainer 'NAME <MAIL>'] [-out dist] [-again]
//
// Nothing in it depends on the machine, the folder or the hour: the same commit gives the same bytes, and -again proves it by
// making everything a second time in another folder. What a package says about commands and configuration (man pages,
// completion) is taken from the program itself. It needs Go and nothing else: no dpkg, no rpmbuild, no container daemon.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// release is one making.
type release struct {
	version string // as the program says it
	pack    string // as a package may be called: it begins with a digit
	date    time.Time
	// maintainer is whom the packages name: NAME <MAIL>.
	maintainer string
	out        string
	say        io.Writer
}

// nobody is the maintainer that packages name when their builder names none. The address does not exist.
const nobody = "Hafen maintainers <maintainers@hafen.example>"

// architectures are those that packages are made for.
var architectures = []string{"amd64", "arm64"}

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, say io.Writer) error {
	fs := flag.NewFlagSet("release", flag.ContinueOnError)
	version := fs.String("version", "", "`version`; by default what git describe says")
	date := fs.String("date", "", "`seconds` since 1970 that files are dated with; by default the commit's")
	maintainer := fs.String("maintainer", nobody, "who builds the packages and answers for them, as `NAME <MAIL>`")
	out := fs.String("out", "dist", "`folder` to write to")
	again := fs.Bool("again", false, "make everything twice, the second time in another folder, and compare")
	if err := fs.Parse(args); err != nil {
		return err
	}
	r, err := newRelease(ctx, *version, *date, *out, say)
	if err != nil {
		return err
	}
	if r.maintainer, err = validMaintainer(*maintainer); err != nil {
		return err
	}
	if r.maintainer == nobody {
		fmt.Fprintf(say, "the packages name %s, whom nobody can write to: make package MAINTAINER='NAME <MAIL>'\n", nobody)
	}
	if err := r.make(ctx); err != nil {
		return err
	}
	if *again {
		return r.proveReproducible(ctx)
	}
	return nil
}

// validMaintainer refuses what would break the packages' own files.
func validMaintainer(text string) (string, error) {
	at, err := mail.ParseAddress(text)
	if err != nil || at.Name == "" || strings.ContainsAny(text, "\n\"$") {
		return "", fmt.Errorf("-maintainer %q: write it as Jo Doe <jo@hospital.example>", text)
	}
	return fmt.Sprintf("%s <%s>", at.Name, at.Address), nil
}

func newRelease(ctx context.Context, version, date, out string, say io.Writer) (*release, error) {
	if version == "" {
		text, err := command(ctx, "git", "describe", "--tags", "--always", "--dirty")
		if err != nil {
			return nil, err
		}
		version = text
	}
	if date == "" {
		text, err := command(ctx, "git", "log", "-1", "--format=%ct")
		if err != nil {
			return nil, err
		}
		date = text
	}
	seconds, err := strconv.ParseInt(date, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("-date: %w", err)
	}
	at := time.Unix(seconds, 0).UTC()
	return &release{version: version, pack: packageVersion(version, at), date: at, maintainer: nobody, out: out, say: say}, nil
}

// packageVersion is what dpkg and rpm order by: the tag without its v, or, before the first tag, the date and the commit. The sign ~
// sorts before everything, so that the first tagged version is newer.
func packageVersion(version string, date time.Time) string {
	v := strings.TrimPrefix(version, "v")
	if v == "" || v[0] < '0' || v[0] > '9' || !strings.Contains(v, ".") {
		return "0~" + date.Format("20060102.1504") + "." + strings.ReplaceAll(version, "-", ".")
	}
	return strings.Replace(strings.Replace(v, "-", "+", 1), "-", ".", -1)
}

// make makes it all; each step leaves files in out that the next takes up.
func (r *release) make(ctx context.Context) error {
	for _, dir := range []string{r.out, r.path("stage")} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(r.path("stage"), 0o755); err != nil {
		return err
	}
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"binaries", r.binaries},
		{"bill of materials", r.billsOfMaterials},
		{"man pages", r.manPages},
		{"completion", r.completions},
		{"packages", r.packages},
		{"container image", r.image},
		{"checksums", r.checksums},
	}
	for _, step := range steps {
		start := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Fprintf(r.say, "%-18s %5.1f s\n", step.name, time.Since(start).Seconds())
	}
	return os.RemoveAll(r.path("stage"))
}

func (r *release) path(parts ...string) string {
	return filepath.Join(append([]string{r.out}, parts...)...)
}

// binary is where the program for an architecture lies.
func (r *release) binary(arch string) string {
	return r.path(fmt.Sprintf("hafen_%s_linux_%s", r.pack, arch))
}

// binaries builds the program, static, for each architecture, and for the machine that makes the release.
func (r *release) binaries(ctx context.Context) error {
	for _, arch := range architectures {
		if err := r.build(ctx, r.binary(arch), "GOOS=linux", "GOARCH="+arch); err != nil {
			return err
		}
	}
	return r.build(ctx, r.path("stage", "hafen"))
}

func (r *release) build(ctx context.Context, to string, env ...string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid= -X main.version="+r.version, "-o", to, "./cmd/hafen")
	cmd.Env = append(os.Environ(), append(env, "CGO_ENABLED=0", "GOFLAGS=", "GOAMD64=v1", "GOARM64=v8.0")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// command runs a program and gives what it printed, without the last line's end.
func command(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}
