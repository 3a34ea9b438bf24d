package configs

import (
	"encoding/json"
	"reflect"
	"testing"

	"go.yaml.in/yaml/v3"
)

// parse is Load without Validate.
func parse(t *testing.T, text []byte, environ ...string) *Config {
	t.Helper()
	r := &reading{origins: make(map[string]string)}
	values, ok := r.readFile(text, reflect.TypeFor[Config]())
	if !ok || len(r.problems) > 0 {
		t.Fatalf("problems in the structure:\n%v", r.problems)
	}
	c, err := decode(values, r.readEnv(environ))
	if err != nil {
		t.Fatal(err)
	}
	c.tidy()
	return c
}

func TestDefaultYAMLIsDefault(t *testing.T) {
	if got, want := parse(t, DefaultYAML()), Default(); !reflect.DeepEqual(got, want) {
		t.Errorf("default.yaml parses to\n%+v\nwant\n%+v", got, want)
	}
	if got, want := parse(t, nil), Default(); !reflect.DeepEqual(got, want) {
		t.Errorf("an empty file parses to\n%+v\nwant\n%+v", got, want)
	}
	if n := len(Default().Clients); n != 6 {
		t.Errorf("%d client networks by default, want 6", n)
	}
}

func TestDefaultYAMLNamesEveryKey(t *testing.T) {
	texts := make(map[string]string)
	var document yaml.Node
	if err := yaml.Unmarshal(fullYAML(), &document); err != nil {
		t.Fatal(err)
	}
	collectComments(&document, "", texts)
	known := make(map[string]bool)
	neighbour := "" // two keys of one sentence stand together
	walkKeys(reflect.TypeFor[Config](), "", func(pattern string, f field) {
		known[pattern] = true
		text, there := texts[pattern]
		if !there {
			t.Errorf("default.yaml lacks %s", pattern)
		}
		if text == "" && neighbour == "" {
			t.Errorf("default.yaml says nothing about %s", pattern)
		}
		neighbour = text
	})
	for pattern := range texts {
		if !known[pattern] && patternOf(pattern) != "precall.thresholds.rtt_pass" && patternOf(pattern) != "precall.thresholds.rtt_warn" {
			t.Errorf("default.yaml has %s, which is no key", pattern)
		}
	}
}

// The examples are what people take in first: they must be right but for the files they name and what is not available yet.
func TestExamplesAreValid(t *testing.T) {
	c := parse(t, fullYAML())
	c.Name = "gw.hospital.example"
	c.TLS = Default().TLS
	c.Forward.Users = nil
	if problems := c.Validate(); len(problems) > 0 {
		t.Errorf("the examples have problems:\n%v", problems)
	}
}

func TestSchema(t *testing.T) {
	var s schema
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	// Every key of the structs is in the schema, with what the default file says.
	var at func(s *schema, pattern []string) *schema
	at = func(s *schema, path []string) *schema {
		if s == nil || len(path) == 0 {
			return s
		}
		next := s.Properties[path[0]]
		if next != nil && next.Items != nil && len(path) > 1 {
			next = next.Items
		}
		return at(next, path[1:])
	}
	walkKeys(reflect.TypeFor[Config](), "", func(pattern string, f field) {
		if at(&s, splitPattern(pattern)) == nil {
			t.Errorf("the schema lacks %s", pattern)
		}
	})
	if got := at(&s, []string{"relay", "mode"}); got == nil || len(got.Enum) != 3 || got.Default != "bridge" || got.Description == "" {
		t.Errorf("relay.mode in the schema: %+v", got)
	}
	// The default file obeys it.
	var document map[string]any
	if err := yaml.Unmarshal(DefaultYAML(), &document); err != nil {
		t.Fatal(err)
	}
	obeys(t, &s, "", document)
	if err := yaml.Unmarshal(fullYAML(), &document); err != nil {
		t.Fatal(err)
	}
	obeys(t, &s, "", document)
}

func splitPattern(pattern string) []string {
	var path []string
	for _, part := range splitDots(pattern) {
		if n := len(part); n > 2 && part[n-2:] == "[]" {
			part = part[:n-2]
		}
		path = append(path, part)
	}
	return path
}

func splitDots(s string) []string {
	var parts []string
	start := 0
	for i := range len(s) {
		if s[i] == '.' {
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	return append(parts, s[start:])
}

// obeys checks what the schema's few words mean.
func obeys(t *testing.T, s *schema, key string, value any) {
	t.Helper()
	types := map[string]bool{}
	switch names := s.Type.(type) {
	case string:
		types[names] = true
	case []any:
		for _, name := range names {
			types[name.(string)] = true
		}
	}
	kind := map[reflect.Kind]string{reflect.Map: "object", reflect.Slice: "array", reflect.String: "string", reflect.Bool: "boolean", reflect.Int: "integer", reflect.Float64: "number"}[reflect.ValueOf(value).Kind()]
	if value == nil {
		kind = "null"
	}
	if !types[kind] && (kind != "integer" || !types["number"]) {
		t.Errorf("%s is a %s, the schema wants %v", key, kind, s.Type)
	}
	switch value := value.(type) {
	case map[string]any:
		for name, child := range value {
			if s.Properties[name] == nil {
				t.Errorf("the schema does not know %s", join(key, name))
				continue
			}
			obeys(t, s.Properties[name], join(key, name), child)
		}
	case []any:
		for i, child := range value {
			obeys(t, s.Items, at(key, i), child)
		}
	}
}
