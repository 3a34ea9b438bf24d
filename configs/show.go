package configs

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// mask stands where a secret is.
const mask = "***"

// Show prints the configuration as YAML, each key with its effective value and secrets masked. The names of files that hold secrets are
// shown, what is in them is not.
func (c *Config) Show() ([]byte, error) {
	text, err := yaml.Marshal(showNode(reflect.ValueOf(*c), false))
	if err != nil {
		return nil, fmt.Errorf("print the configuration: %w", err)
	}
	return text, nil
}

func showNode(v reflect.Value, secret bool) *yaml.Node { return valueNode(v, secret, masked) }

// plainNode is the same with secrets as they are: to compare, never to be shown.
func plainNode(v reflect.Value) *yaml.Node {
	return valueNode(v, false, func(secret string) string { return secret })
}

func valueNode(v reflect.Value, secret bool, hide func(string) string) *yaml.Node {
	node := new(yaml.Node)
	switch kindOf(v.Type()) {
	case sectionKind:
		node.Kind = yaml.MappingNode
		for _, f := range fieldsOf(v.Type()) {
			node.Content = append(node.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: f.name}, valueNode(v.Field(f.index), f.secret, hide))
		}
	case listKind:
		node.Kind = yaml.SequenceNode
		if kindOf(v.Type().Elem()) != sectionKind {
			node.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			node.Content = append(node.Content, valueNode(v.Index(i), secret, hide))
		}
	case numbersKind:
		node.Kind = yaml.MappingNode
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, key := range keys {
			node.Content = append(node.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key.String()}, valueNode(v.MapIndex(key), secret, hide))
		}
	default:
		value := plain(v)
		if text, ok := value.(string); ok && secret {
			value = hide(text)
		}
		// Encode cannot fail for text, numbers and booleans.
		_ = node.Encode(value)
	}
	return node
}

// masked hides a secret. Of a URL its scheme and host stay, which is what one looks for when something does not connect.
func masked(secret string) string {
	if secret == "" {
		return ""
	}
	u, err := url.Parse(secret)
	if err != nil || u.Scheme == "" || u.Host == "" || u.Opaque != "" {
		return mask
	}
	text := u.Scheme + "://"
	if u.User != nil {
		text += mask + "@"
	}
	text += u.Host
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		text += "/" + mask
	}
	return text
}
