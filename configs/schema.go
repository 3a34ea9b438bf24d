package configs

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// schema is the part of JSON Schema (2020-12) that describes a configuration.
type schema struct {
	Schema      string             `json:"$schema,omitempty"`
	Title       string             `json:"title,omitempty"`
	Description string             `json:"description,omitempty"`
	Type        any                `json:"type,omitempty"` // a type, or several
	Enum        []string           `json:"enum,omitempty"`
	Pattern     string             `json:"pattern,omitempty"`
	Default     any                `json:"default,omitempty"`
	Properties  map[string]*schema `json:"properties,omitempty"`
	Additional  any                `json:"additionalProperties,omitempty"` // false, or a schema
	Items       *schema            `json:"items,omitempty"`
}

// Schema is the JSON Schema of the configuration file, for editors that complete and check while one writes. Its structure comes from the structs,
// its descriptions from the comments of the default file.
func Schema() []byte {
	texts := make(map[string]string)
	var document yaml.Node
	if err := yaml.Unmarshal(fullYAML(), &document); err == nil { // the file is ours and its test parses it
		collectComments(&document, "", texts)
	}
	s := sectionSchema(reflect.TypeFor[Config](), reflect.ValueOf(*Default()), "", texts)
	s.Schema = "https://json-schema.org/draft/2020-12/schema"
	s.Title = "Hafen configuration"
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(s); err != nil {
		return nil // can't be: only text, numbers, lists and maps are in it
	}
	return out.Bytes()
}

// collectComments finds for each key's pattern the text above it.
func collectComments(n *yaml.Node, pattern string, texts map[string]string) {
	switch n.Kind {
	case yaml.DocumentNode:
		for _, child := range n.Content {
			collectComments(child, pattern, texts)
		}
	case yaml.SequenceNode:
		for _, child := range n.Content {
			// The text above a hyphen belongs to the member's first key.
			if child.Kind == yaml.MappingNode && len(child.Content) > 0 && child.HeadComment != "" {
				child.Content[0].HeadComment = child.HeadComment
			}
			collectComments(child, pattern+"[]", texts)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := join(pattern, n.Content[i].Value)
			texts[key] = commentText(n.Content[i].HeadComment)
			collectComments(n.Content[i+1], key, texts)
		}
	}
}

// commentText is the last paragraph of a comment as one line.
func commentText(comment string) string {
	paragraphs := strings.Split(comment, "\n\n")
	var words []string
	for line := range strings.SplitSeq(paragraphs[len(paragraphs)-1], "\n") {
		words = append(words, strings.TrimSpace(strings.TrimLeft(line, "# ")))
	}
	return strings.TrimSpace(strings.Join(words, " "))
}

func sectionSchema(t reflect.Type, standard reflect.Value, pattern string, texts map[string]string) *schema {
	s := &schema{Type: "object", Additional: false, Properties: make(map[string]*schema)}
	for _, f := range fieldsOf(t) {
		key := join(pattern, f.name)
		child := valueSchema(f.typ, standard.Field(f.index), key, texts)
		child.Description = texts[key]
		s.Properties[f.name] = child
	}
	return s
}

func valueSchema(t reflect.Type, standard reflect.Value, pattern string, texts map[string]string) *schema {
	switch kindOf(t) {
	case sectionKind:
		s := sectionSchema(t, standard, pattern, texts)
		s.Type = []string{"object", "null"} // all its keys may be commented out
		return s
	case listKind:
		member := memberDefault(t.Elem())
		s := &schema{Type: []string{"array", "string"}, Items: valueSchema(t.Elem(), member, pattern+"[]", texts)}
		s.Items.Default = nil
		if kindOf(t.Elem()) == sectionKind {
			s.Type, s.Items.Type = "array", "object"
		}
		if standard.Len() > 0 {
			s.Default = plain(standard)
		}
		return s
	case numbersKind:
		s := &schema{Type: "object", Additional: false, Properties: make(map[string]*schema)}
		for name, value := range DefaultThresholds() {
			s.Properties[name] = &schema{Type: "number", Default: value}
		}
		return s
	default:
		s := scalarSchema(t, pattern)
		s.Default = plain(standard)
		return s
	}
}

func scalarSchema(t reflect.Type, pattern string) *schema {
	switch kindOf(t) {
	case boolKind:
		return &schema{Type: "boolean"}
	case intKind:
		return &schema{Type: "integer"}
	case floatKind:
		return &schema{Type: "number"}
	case durationKind:
		return &schema{Type: "string", Pattern: `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$|^0$`}
	case textKind:
		if words := choices()[pattern]; words != nil {
			return &schema{Type: "string", Enum: words}
		}
		if pattern == "relay.dscp" {
			return &schema{Type: []string{"string", "integer"}}
		}
	}
	return &schema{Type: "string"}
}
