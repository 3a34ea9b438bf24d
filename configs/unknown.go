package configs

import (
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// unknown reports a key that does not exist, with the real key that was most likely meant.
func (r *reading) unknown(section string, name *yaml.Node, t reflect.Type) {
	key := join(section, shown(name.Value))
	if name.Kind != yaml.ScalarNode {
		r.note(nameOf(section), name, "has a key that is no text", "write one of its keys: "+list(fieldNames(t)))
		return
	}
	if file, ok := fieldNamed(t, name.Value+"_file"); ok {
		// A secret written into the file that everybody copies around.
		r.note(key, name, "is no key, and its value does not belong here", "put it into a file of its own and name that file in "+join(section, file.name))
		return
	}
	r.note(key, name, "is no key", "write "+r.meant(section, name.Value, t))
}

// meant names the key that an unknown name was meant to be: a neighbour, else the same or nearly the same name in another section.
func (r *reading) meant(section, name string, t reflect.Type) string {
	neighbours := fieldNames(t)
	if near := nearest(name, neighbours); near != "" {
		return join(section, near)
	}
	var elsewhere []string
	patterns := make(map[string]string)
	walkKeys(reflect.TypeFor[Config](), "", func(pattern string, f field) {
		if _, taken := patterns[f.name]; !taken {
			patterns[f.name] = pattern
			elsewhere = append(elsewhere, f.name)
		}
	})
	if near := nearest(name, elsewhere); near != "" {
		return patterns[near]
	}
	return orAnyOf("", neighbours)
}

// orAnyOf is one, or where there is none a choice of all.
func orAnyOf(one string, all []string) string {
	if one != "" {
		return one
	}
	return "one of " + list(all)
}

func list(words []string) string { return strings.Join(words, ", ") }

// shown makes a key of the file fit to be printed: short, and without control characters.
func shown(name string) string {
	if name == "" {
		return `""`
	}
	if runes := []rune(name); len(runes) > 40 {
		name = string(runes[:40]) + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return '?'
		}
		return r
	}, name)
}
