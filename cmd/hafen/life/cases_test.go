package life

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const treeRoot = "../../.."

// TestEveryCase: each case of abuse has a check by name, and the check is in the tree.
func TestEveryCase(t *testing.T) {
	table, err := os.ReadFile("testdata/cases")
	if err != nil {
		t.Fatal(err)
	}
	checked := make(map[string]bool)
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		if len(fields) < 2 {
			t.Errorf("%s has no check", fields[0])
			continue
		}
		checked[fields[0]] = true
		for _, check := range fields[1:] {
			if !inTree(t, check) {
				t.Errorf("%s: there is no %s", fields[0], check)
			}
		}
	}
	list, err := os.ReadFile(filepath.Join(treeRoot, "../shared/abuse.md"))
	if err != nil {
		t.Logf("the list of cases is not beside the repository: only the table is held to the tree (%v)", err)
		return
	}
	cases := regexp.MustCompile(`(?m)^\| ([A-J]-\d\d) \|`).FindAllStringSubmatch(string(list), -1)
	for _, c := range cases {
		if !checked[c[1]] {
			t.Errorf("%s has no check", c[1])
		}
	}
	t.Logf("%d cases, each with a check", len(cases))
}

// inTree finds a check: a test of a package, or a target of the Makefile.
func inTree(t *testing.T, check string) bool {
	t.Helper()
	files, begins := []string{filepath.Join(treeRoot, "Makefile")}, "\n"
	if target, ok := strings.CutPrefix(check, "make:"); ok {
		begins += target + ":"
	} else {
		at := strings.LastIndexByte(check, '.')
		begins += "func " + check[at+1:] + "("
		var err error
		if files, err = filepath.Glob(filepath.Join(treeRoot, check[:max(at, 0)], "*_test.go")); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), begins) {
			return true
		}
	}
	return false
}
