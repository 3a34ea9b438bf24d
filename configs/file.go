package configs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFileSize bounds a configuration file. Real ones have some kilobytes.
const maxFileSize = 1 << 20

// reading is one pass over a configuration file. It compares the YAML with the structs and collects every problem with its
// line; what it returns holds only keys that exist and values of the right kind.
type reading struct {
	problems Problems
	// spoilt are the keys that could not be read: what Validate says about their zero values is not news.
	spoilt []string
	// origins tells for each key where its value came from.
	origins map[string]string
}

// readFile reads one YAML document against section. A document that is no YAML at all is one problem, and then there is nothing to go on with.
func (r *reading) readFile(text []byte, section reflect.Type) (values map[string]any, ok bool) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		return map[string]any{}, true // empty, or nothing but comments
	}
	if err != nil {
		r.problems = append(r.problems, syntaxProblem(err))
		return nil, false
	}
	if second := new(yaml.Node); !errors.Is(decoder.Decode(second), io.EOF) {
		r.bad("file", second, "has a second document after ---", "write one document")
	}
	if len(document.Content) == 0 || isNull(document.Content[0]) {
		return map[string]any{}, true
	}
	values, ok = r.value("", document.Content[0], section).(map[string]any)
	return values, ok
}

// quoted finds what a YAML error cites from the file: it might be a part of a secret.
var quoted = regexp.MustCompile("(?s)'.*'|`.*`|\".*\"")

var lineNumber = regexp.MustCompile(`line (\d+): `)

func syntaxProblem(err error) Problem {
	p := Problem{Key: "file", Write: "check indentation, colons and quotes there; a tab never indents"}
	text := err.Error()
	if m := lineNumber.FindStringSubmatchIndex(text); m != nil {
		p.Origin = "line " + text[m[2]:m[3]]
		text = text[m[1]:]
	}
	if strings.HasPrefix(text, "did not find expected ',' or ") {
		// Most often turn:host?transport=udp without quotes in a list in brackets.
		p.Write = "check the brackets there, and put values with ? or : in them into quotes"
	} else {
		text = quoted.ReplaceAllString(text, "…")
	}
	p.Problem = "is no YAML, " + text
	return p
}

// bad reports a key whose value cannot be used.
func (r *reading) bad(key string, n *yaml.Node, problem, write string) {
	r.spoilt = append(r.spoilt, key)
	r.note(key, n, problem, write)
}

// note reports a problem that leaves the other values as they are.
func (r *reading) note(key string, n *yaml.Node, problem, write string) {
	origin := r.origins[key]
	if n != nil && n.Line > 0 {
		origin = "line " + strconv.Itoa(n.Line)
	}
	r.problems = append(r.problems, Problem{Key: key, Problem: problem, Write: write, Origin: origin})
}

// value reads one node as a value of type t. A node that is not what it should be is reported, and its zero value returned, so
// that positions in lists stay what they are in the file.
func (r *reading) value(key string, n *yaml.Node, t reflect.Type) any {
	if key != "" {
		r.origins[key] = "line " + strconv.Itoa(n.Line)
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		r.bad(nameOf(key), n, "uses a YAML anchor or alias", "write the value out")
		return plain(memberDefault(t))
	}
	if n.Style&yaml.TaggedStyle != 0 {
		r.bad(nameOf(key), n, "uses a YAML tag", "write the value without it")
		return plain(memberDefault(t))
	}
	switch kindOf(t) {
	case sectionKind:
		return r.section(key, n, t)
	case listKind:
		return r.list(key, n, t.Elem())
	case numbersKind:
		return r.numbers(key, n)
	default:
		return r.scalar(key, n, t)
	}
}

func nameOf(key string) string {
	if key == "" {
		return "file"
	}
	return key
}

// section reads a mapping against a struct. Keys that are missing get the member's defaults; those of the file's top level
// come from viper's.
func (r *reading) section(key string, n *yaml.Node, t reflect.Type) map[string]any {
	values, _ := plain(memberDefault(t)).(map[string]any)
	if !isMember(key) {
		values = make(map[string]any)
	}
	if n.Kind != yaml.MappingNode {
		if !isNull(n) { // a section whose keys are all commented out says nothing
			r.bad(nameOf(key), n, "is not a section", "write its keys below it, indented: "+list(fieldNames(t)))
		}
		return values
	}
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, child := n.Content[i], n.Content[i+1]
		if first, twice := seen[name.Value]; twice {
			r.note(join(key, shown(name.Value)), name, fmt.Sprintf("is there twice, first on line %d", first), "keep one of them")
			continue
		}
		seen[name.Value] = name.Line
		f, ok := fieldNamed(t, name.Value)
		if !ok || name.Kind != yaml.ScalarNode {
			r.unknown(key, name, t)
			continue
		}
		if isNull(child) && kindOf(f.typ) != sectionKind {
			r.bad(join(key, f.name), child, "has no value", "write one, or delete the line to have the default")
			continue
		}
		if v := r.value(join(key, f.name), child, f.typ); kindOf(f.typ) == sectionKind && values[f.name] != nil {
			overlay(values[f.name], v)
		} else {
			values[f.name] = v
		}
	}
	return values
}

// isMember tells a member of a list, which has defaults of its own, and what lies inside one.
func isMember(key string) bool {
	return key != "" && key[len(key)-1] == ']'
}

// overlay puts what the file says about a section inside a list's member over that section's defaults.
func overlay(onto, values any) {
	base, ok := onto.(map[string]any)
	over, is := values.(map[string]any)
	if !ok || !is {
		return
	}
	for k, v := range over {
		if inner, deeper := v.(map[string]any); deeper && base[k] != nil {
			overlay(base[k], inner)
			continue
		}
		base[k] = v
	}
}

// list reads a sequence. A list of texts with one member may be written as that member.
func (r *reading) list(key string, n *yaml.Node, member reflect.Type) any {
	if n.Kind == yaml.ScalarNode && kindOf(member) != sectionKind {
		return []any{r.scalar(key, n, member)}
	}
	if n.Kind != yaml.SequenceNode {
		r.bad(key, n, "is not a list", "write each member on a line of its own after a hyphen")
		return []any{}
	}
	values := make([]any, 0, len(n.Content))
	for _, child := range n.Content {
		v := r.value(at(key, len(values)), child, member)
		if kindOf(member) == sectionKind && child.Kind == yaml.MappingNode && reflect.DeepEqual(v, plain(memberDefault(member))) {
			continue // a member that says nothing, as files made from a template have them
		}
		values = append(values, v)
	}
	return values
}

// numbers reads a map of names to numbers. Validate knows the names.
func (r *reading) numbers(key string, n *yaml.Node) map[string]any {
	values := make(map[string]any)
	if n.Kind != yaml.MappingNode {
		r.bad(key, n, "is not a section", "write names and numbers below it, indented")
		return values
	}
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, child := n.Content[i], n.Content[i+1]
		if first, twice := seen[name.Value]; twice {
			r.note(join(key, shown(name.Value)), name, fmt.Sprintf("is there twice, first on line %d", first), "keep one of them")
			continue
		}
		seen[name.Value] = name.Line
		if _, known := DefaultThresholds()[name.Value]; !known {
			names := thresholdNames()
			r.bad(join(key, shown(name.Value)), name, "is no key", "write "+orAnyOf(nearest(name.Value, names), names))
			continue
		}
		values[name.Value] = r.value(join(key, name.Value), child, reflect.TypeFor[float64]())
	}
	return values
}

func (r *reading) scalar(key string, n *yaml.Node, t reflect.Type) any {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		problem := "is not a single value"
		if isNull(n) {
			problem = "has no value"
		}
		r.bad(key, n, problem, "write "+example(t))
		return plain(reflect.Zero(t))
	}
	value, err := parseScalar(n.Value, t)
	inQuotes := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0
	if k := kindOf(t); err == nil && inQuotes && (k == intKind || k == boolKind || k == floatKind) {
		err = &scalarError{"is a text in quotes", "write " + example(t) + ", without quotes"}
	}
	if err != nil {
		r.bad(key, n, err.problem, err.write)
		return plain(reflect.Zero(t))
	}
	return value
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null"
}
