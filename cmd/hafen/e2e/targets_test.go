package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestEveryScenarioHasATarget: what make test skips for its length is run by a target of its own, and not by none.
func TestEveryScenarioHasATarget(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("../../../Makefile")
	must(t, err)
	files, err := filepath.Glob("*_test.go")
	must(t, err)
	aside := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\) \{(?:[^}]|\n)*?\b(?:callScenario|longScenario|onlyWithCalls)\(t[,)]`)
	found := 0
	for _, file := range files {
		source, err := os.ReadFile(file)
		must(t, err)
		for _, m := range aside.FindAllSubmatch(source, -1) {
			found++
			if !regexp.MustCompile(`-run '[^']*\b` + string(m[1]) + `\b`).Match(makefile) {
				t.Errorf("%s: no target of the Makefile runs %s", file, m[1])
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d scenarios were found that run aside", found)
	}
}
