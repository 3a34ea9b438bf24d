package configs

import (
	"encoding/json"
	"fmt"
	"reflect"
)

// Hidden is a copy of the configuration with its secrets masked, as Show shows them: it can be handed to others and compared with
// another, but nothing can be run from it.
func (c *Config) Hidden() (*Config, error) {
	out, err := c.copy()
	if err != nil {
		return nil, err
	}
	hide(reflect.ValueOf(out).Elem())
	return out, nil
}

// copy is a configuration of its own, with the same values.
func (c *Config) copy() (*Config, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("copy the configuration: %w", err)
	}
	out := new(Config)
	if err := json.Unmarshal(text, out); err != nil {
		return nil, fmt.Errorf("copy the configuration: %w", err)
	}
	return out, nil
}

// hide masks the secrets in a section.
func hide(section reflect.Value) {
	for _, f := range fieldsOf(section.Type()) {
		v := section.Field(f.index)
		switch {
		case f.secret && v.Kind() == reflect.String:
			v.SetString(masked(v.String()))
		case kindOf(f.typ) == sectionKind:
			hide(v)
		case kindOf(f.typ) == listKind && kindOf(f.typ.Elem()) == sectionKind:
			for i := range v.Len() {
				hide(v.Index(i))
			}
		}
	}
}
