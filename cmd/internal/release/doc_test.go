package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const manual = "../../../packaging/doc"

var (
	makeTarget = regexp.MustCompile("`make ([a-z-]+)[^`]*`")
	testName   = regexp.MustCompile("`(Test[A-Za-z0-9_]+)`")
	docLink    = regexp.MustCompile(`\]\(([^):#]+)(#[^)]*)?\)`)
)

// TestManualIsTrue: what the manual cites as a proof is there, its links lead somewhere, and its first page leads to all others.
func TestManualIsTrue(t *testing.T) {
	makefile := read(t, "../../../Makefile")
	tests, err := exec.Command("git", "grep", "-h", "^func Test", "--", "../../../*_test.go").Output()
	if err != nil {
		t.Skipf("no git here: %v", err)
	}
	pages, err := filepath.Glob(manual + "/*.md")
	if err != nil || len(pages) < 10 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	index := read(t, manual+"/README.md")
	for _, page := range pages {
		name, text := filepath.Base(page), read(t, page)
		for _, m := range makeTarget.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s: no target %s", name, m[1])
			}
		}
		for _, m := range testName.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(string(tests), "func "+m[1]+"(") {
				t.Errorf("%s: no test %s", name, m[1])
			}
		}
		for _, m := range docLink.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(manual, m[1])); err != nil {
				t.Errorf("%s: a link leads nowhere: %s", name, m[1])
			}
		}
		if name != "README.md" && !strings.Contains(index, "]("+name+")") {
			t.Errorf("README.md does not lead to %s", name)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
