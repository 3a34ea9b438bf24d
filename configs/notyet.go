package configs

import (
	"reflect"
	"slices"
	"strings"
)

// notYet lists the keys whose feature is not built. To set one away from its default is refused, never ignored. Whoever builds the
// feature deletes its row.
//
// A key ending in .* stands for all keys below it. A row with values refuses only these.
func notYet() []notYetKey {
	return []notYetKey{
		{key: "tls.acme.dns.*"},
		{key: "admin.listen"},
	}
}

type notYetKey struct {
	key    string
	values []string
}

func (n notYetKey) covers(pattern string, v reflect.Value) bool {
	if prefix, ok := strings.CutSuffix(n.key, "*"); ok {
		return strings.HasPrefix(pattern, prefix)
	}
	if n.key != pattern {
		return false
	}
	return n.values == nil || slices.Contains(n.values, v.String())
}

// availability reports each key of notYet that is set, and drops what else is wrong with it.
func (k *check) availability() Problems {
	var found Problems
	rows := notYet()
	walkValues(reflect.ValueOf(*k.config), reflect.ValueOf(*Default()), "", "", func(key, pattern string, v, standard reflect.Value) {
		if same(v, standard) {
			return
		}
		for _, row := range rows {
			if !row.covers(pattern, v) {
				continue
			}
			write := "delete it"
			if text := standard.String(); standard.Kind() == reflect.String && text != "" {
				write = "write " + text
			}
			found = append(found, Problem{Key: key, Problem: "is not available yet", Write: write})
			return
		}
	})
	k.problems = slices.DeleteFunc(k.problems, func(p Problem) bool {
		return slices.ContainsFunc(found, func(f Problem) bool { return related(f.Key, p.Key) })
	})
	return found
}

// same compares a value with its default; an empty list is no list.
func same(v, standard reflect.Value) bool {
	if v.Kind() == reflect.Slice && v.Len() == 0 && standard.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(v.Interface(), standard.Interface())
}

// walkValues calls visit for each key that is no section, lists of sections included, with its value and its default.
func walkValues(section, standard reflect.Value, key, pattern string, visit func(key, pattern string, v, standard reflect.Value)) {
	for _, f := range fieldsOf(section.Type()) {
		v, std := section.Field(f.index), standard.Field(f.index)
		fieldKey, fieldPattern := join(key, f.name), join(pattern, f.name)
		if kindOf(f.typ) == sectionKind {
			walkValues(v, std, fieldKey, fieldPattern, visit)
			continue
		}
		visit(fieldKey, fieldPattern, v, std)
		if kindOf(f.typ) != listKind || kindOf(f.typ.Elem()) != sectionKind {
			continue
		}
		for i := range v.Len() {
			walkValues(v.Index(i), memberDefault(f.typ.Elem()), at(fieldKey, i), fieldPattern+"[]", visit)
		}
	}
}
