package configs

import "strings"

// Problem is one thing wrong with a configuration: the key, what is wrong, and what to write instead. None of the three
// ever holds a value that may be a secret; in doubt the value is not shown, since key and line find it.
type Problem struct {
	// Key is the full key, with positions in lists: services[0].regions[1].urls[0].
	Key string
	// Problem is what is wrong, as the predicate of the key: "is no port from 1 to 65535".
	Problem string
	// Write is what to write instead, in the imperative.
	Write string
	// Origin is where the value was read: "line 12", or the name of an environment variable. Empty: nowhere in particular.
	Origin string
}

// String is "KEY: problem: what to write", the problem with the line it was found on.
func (p Problem) String() string {
	text := p.Key + ": " + p.Problem
	if p.Origin != "" {
		text += " (" + p.Origin + ")"
	}
	return text + ": " + p.Write
}

// Problems are all that is wrong with a configuration, found at once. As an error they are a line each.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// related reports whether one of two keys is the other, or lies inside it. A key already known to be wrong needs no second complaint
// about what follows from it.
func related(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	rest, inside := strings.CutPrefix(b, a)
	return inside && (rest == "" || rest[0] == '.' || rest[0] == '[')
}
