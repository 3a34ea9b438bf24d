package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// nfpm is pinned in a module of its own, which raises none of the product's versions.
var nfpm = []string{"tool", "-modfile=.ci/pack/go.mod", "nfpm"}

// unitFolders are where each family looks for unit files.
var unitFolders = map[string]string{"deb": "/lib/systemd/system", "rpm": "/usr/lib/systemd/system"}

// packages makes a deb and an rpm for each architecture from packaging/nfpm/nfpm.yaml.
func (r *release) packages(ctx context.Context) error {
	if err := r.stageTexts(ctx); err != nil {
		return err
	}
	recipe, err := os.ReadFile("packaging/nfpm/nfpm.yaml")
	if err != nil {
		return err
	}
	for _, arch := range architectures {
		for kind, units := range unitFolders {
			filled := os.Expand(string(recipe), func(name string) string {
				return map[string]string{
					"ARCH": arch, "VERSION": r.pack, "DATE": r.date.Format(time.RFC3339), "BINARY": r.binary(arch), "STAGE": r.path("stage"), "UNITS": units, "MAINTAINER": r.maintainer,
				}[name]
			})
			file := fmt.Sprintf("nfpm-%s-%s.yaml", kind, arch)
			if err := r.stage(file, []byte(filled)); err != nil {
				return err
			}
			cmd := exec.CommandContext(ctx, "go", append(nfpm, "package", "--config", r.path("stage", file), "--packager", kind, "--target", r.out)...)
			cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.date.Unix()))
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s for %s: %w\n%s", kind, arch, err, out)
			}
		}
	}
	return nil
}

// stageTexts writes what Debian wants to read, and the default configuration as the program itself gives it.
func (r *release) stageTexts(ctx context.Context) error {
	config, err := command(ctx, r.path("stage", "hafen"), "config", "default")
	if err != nil {
		return err
	}
	if err := r.stage("hafen.yaml", []byte(strings.TrimRight(config, "\n")+"\n")); err != nil {
		return err
	}
	changes, err := os.ReadFile("CHANGELOG.md")
	if err != nil {
		return err
	}
	if err := r.writeGzip("changelog.gz", r.debianChangelog(string(changes))); err != nil {
		return err
	}
	return r.stage("copyright", []byte(copyright))
}

const copyright = `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: hafen

Files: *
Copyright: 2026 The Hafen authors
License: Apache-2.0

License: Apache-2.0
 On Debian systems the complete text of the Apache License, version 2.0, is
 in /usr/share/common-licenses/Apache-2.0.
`

var boldMark = regexp.MustCompile("\\*\\*|`")

// debianChangelog is the newest section of CHANGELOG.md in the form that Debian's tools read.
func (r *release) debianChangelog(markdown string) []byte {
	_, section, _ := strings.Cut(markdown, "\n## ")
	section, _, _ = strings.Cut(section, "\n## ")
	var out strings.Builder
	fmt.Fprintf(&out, "hafen (%s) unstable; urgency=medium\n\n", r.pack)
	for _, item := range strings.Split(boldMark.ReplaceAllString(section, ""), "\n- ")[1:] {
		column := 2
		out.WriteString("  *")
		for _, word := range strings.Fields(item) {
			if column += 1 + len(word); column > 78 {
				out.WriteString("\n   ")
				column = 4 + len(word)
			}
			out.WriteString(" " + word)
		}
		out.WriteString("\n")
	}
	fmt.Fprintf(&out, "\n -- %s  %s\n", r.maintainer, r.date.Format(time.RFC1123Z))
	return []byte(out.String())
}
