package configs

import (
	_ "embed"
	"regexp"
	"slices"
)

//go:embed default.yaml
var defaultYAML []byte

// DefaultYAML is the default configuration as a file whose comments are the manual. Lines with two # are text, lines with one are
// settings to take in.
func DefaultYAML() []byte { return slices.Clone(defaultYAML) }

var commentedOut = regexp.MustCompile(`(?m)^( *)# `)

// fullYAML is the default file with all its examples taken in, so that every key that exists is there.
func fullYAML() []byte {
	return commentedOut.ReplaceAll(defaultYAML, []byte("$1"))
}
