package configs

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Change is one key whose value differs between two configurations, secrets masked.
type Change struct {
	Key string `json:"key"`
	// Old and New are what Show prints; "" where the key is not there. Two secrets that differ look the same.
	Old string `json:"old"`
	New string `json:"new"`
}

func (c Change) String() string {
	switch {
	case c.Old == c.New:
		return c.Key + ": another secret"
	case c.Old == "":
		return fmt.Sprintf("%s: new: %s", c.Key, c.New)
	case c.New == "":
		return fmt.Sprintf("%s: gone: %s", c.Key, c.Old)
	}
	return fmt.Sprintf("%s: %s → %s", c.Key, c.Old, c.New)
}

// Diff lists what differs between two configurations, in the order of keys. Members of lists are told apart by their name or host
// where they have one, so that one more in the middle is one change.
func Diff(old, now *Config) ([]Change, error) {
	before, err := old.values()
	if err != nil {
		return nil, err
	}
	after, err := now.values()
	if err != nil {
		return nil, err
	}
	keys := maps.Clone(before)
	maps.Copy(keys, after)
	var all []Change
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		a, b := before[key], after[key]
		if a.raw == b.raw || a.raw == "" && unset(b.raw) || b.raw == "" && unset(a.raw) {
			continue
		}
		all = append(all, Change{key, a.shown, b.shown})
	}
	return all, nil
}

// unset reports whether a value says nothing: it is no news when it comes or goes with the member of a list that it belongs to.
func unset(raw string) bool { return raw == `""` || raw == "[]" }

// value is a key's value as it may be shown, and as it is.
type value struct{ shown, raw string }

// values are the configuration's values by key.
func (c *Config) values() (map[string]value, error) {
	shown, raw := make(map[string]string), make(map[string]string)
	flatten(showNode(reflect.ValueOf(*c), false), "", shown)
	flatten(plainNode(reflect.ValueOf(*c)), "", raw)
	all := make(map[string]value, len(raw))
	for key, text := range raw {
		all[key] = value{shown[key], text}
	}
	return all, nil
}

// flatten writes each value of a tree to its key: services[calls].regions[fra].urls.
func flatten(n *yaml.Node, key string, to map[string]string) {
	switch {
	case n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			flatten(n.Content[i+1], join(key, n.Content[i].Value), to)
		}
	case n.Kind == yaml.SequenceNode && len(n.Content) > 0 && n.Content[0].Kind == yaml.MappingNode:
		for i, member := range n.Content {
			flatten(member, fmt.Sprintf("%s[%s]", key, memberName(member, i)), to)
		}
	default:
		text, err := yaml.Marshal(n)
		if err != nil {
			return // a node of text and numbers can be written
		}
		to[key] = string(bytes.TrimSpace(text))
	}
}

// memberName is what a member of a list is called: its name, its host, or its place.
func memberName(n *yaml.Node, i int) string {
	var parts []string
	for k := 0; k+1 < len(n.Content); k += 2 {
		switch n.Content[k].Value {
		case "name", "host", "path", "ip":
			if v := n.Content[k+1].Value; v != "" {
				parts = append(parts, v)
			}
		}
	}
	if len(parts) == 0 {
		return fmt.Sprint(i)
	}
	return strings.Join(parts, " ")
}
