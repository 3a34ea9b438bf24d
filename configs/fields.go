package configs

import (
	"net/netip"
	"reflect"
	"strings"
	"time"
)

// field is one key of a section, as its struct declares it.
type field struct {
	name   string // the key itself, without its section
	typ    reflect.Type
	index  int
	secret bool
}

// fieldsOf lists the keys of a section in the order of its struct. They are what a file may contain: loading, the schema and
// the printed configuration all come from here.
func fieldsOf(section reflect.Type) []field {
	fields := make([]field, 0, section.NumField())
	for i := range section.NumField() {
		f := section.Field(i)
		name, ok := f.Tag.Lookup("mapstructure")
		if !ok {
			continue
		}
		fields = append(fields, field{name: name, typ: f.Type, index: i, secret: f.Tag.Get("hafen") == "secret"})
	}
	return fields
}

func fieldNamed(section reflect.Type, name string) (field, bool) {
	for _, f := range fieldsOf(section) {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

func fieldNames(section reflect.Type) []string {
	fields := fieldsOf(section)
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	return names
}

// kind is how a value is written in the file.
type kind int

const (
	textKind kind = iota
	boolKind
	intKind
	floatKind
	durationKind
	addrKind
	prefixKind
	listKind
	sectionKind
	numbersKind // a map of names to numbers
)

func kindOf(t reflect.Type) kind {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return durationKind
	case reflect.TypeFor[netip.Addr]():
		return addrKind
	case reflect.TypeFor[netip.Prefix]():
		return prefixKind
	}
	switch t.Kind() {
	case reflect.Bool:
		return boolKind
	case reflect.Int:
		return intKind
	case reflect.Float64:
		return floatKind
	case reflect.Slice:
		return listKind
	case reflect.Struct:
		return sectionKind
	case reflect.Map:
		return numbersKind
	default:
		return textKind
	}
}

// walkKeys calls visit for each key below section, sections and lists included, with its pattern: positions in lists are
// written as [].
func walkKeys(section reflect.Type, prefix string, visit func(pattern string, f field)) {
	for _, f := range fieldsOf(section) {
		pattern := join(prefix, f.name)
		visit(pattern, f)
		t := f.typ
		if kindOf(t) == listKind {
			pattern, t = pattern+"[]", t.Elem()
		}
		if kindOf(t) == sectionKind {
			walkKeys(t, pattern, visit)
		}
	}
}

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

// plain turns a value of the configuration into what a YAML file would have given: maps, lists, text, numbers.
func plain(v reflect.Value) any {
	switch kindOf(v.Type()) {
	case durationKind:
		return durationText(time.Duration(v.Int()))
	case addrKind:
		if a, ok := v.Interface().(netip.Addr); ok && a.IsValid() {
			return a.String()
		}
		return ""
	case prefixKind:
		if p, ok := v.Interface().(netip.Prefix); ok && p.IsValid() {
			return p.String()
		}
		return ""
	case listKind:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = plain(v.Index(i))
		}
		return list
	case sectionKind:
		section := make(map[string]any)
		for _, f := range fieldsOf(v.Type()) {
			section[f.name] = plain(v.Field(f.index))
		}
		return section
	default:
		return v.Interface()
	}
}

// durationText is 1h, not 1h0m0s.
func durationText(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// memberDefault is what a member of a list of sections has where the file says nothing.
func memberDefault(t reflect.Type) reflect.Value {
	switch t {
	case reflect.TypeFor[Service]():
		return reflect.ValueOf(defaultService())
	case reflect.TypeFor[Region]():
		return reflect.ValueOf(defaultRegion())
	case reflect.TypeFor[Route]():
		return reflect.ValueOf(defaultRoute())
	case reflect.TypeFor[AdminUser]():
		return reflect.ValueOf(defaultAdminUser())
	default:
		return reflect.Zero(t)
	}
}
