package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"

	"hafen/configs"
)

// eraser blacks out the secrets of a configuration wherever they turn up, as they are and as base64 or hex. The bundle should not have
// any: this is the second lock.
type eraser struct{ forms [][]byte }

// shortestSecret keeps a short word from blacking out half the bundle.
const shortestSecret = 6

func newEraser(cfg *configs.Config) *eraser {
	e := &eraser{}
	e.walk(reflect.ValueOf(*cfg))
	slices.SortFunc(e.forms, func(a, b []byte) int { return len(b) - len(a) }) // the longest first: a URL before its password
	return e
}

// walk looks for keys that are secret, and for files that hold one.
func (e *eraser) walk(v reflect.Value) {
	switch v.Kind() {
	case reflect.Slice:
		for i := range v.Len() {
			e.walk(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			key, ours := f.Tag.Lookup("mapstructure")
			if !ours {
				continue
			}
			value := v.Field(i)
			switch {
			case value.Kind() != reflect.String:
				e.walk(value)
			case f.Tag.Get("hafen") == "secret":
				e.secret(value.String())
			case strings.HasSuffix(key, "_file") && key != "ca_file" && key != "parent_file":
				if text, err := os.ReadFile(value.String()); err == nil {
					e.secret(strings.TrimSpace(string(text)))
				}
			}
		}
	}
}

// secret takes a value, and of a URL its parts that are secret.
func (e *eraser) secret(value string) {
	if u, err := url.Parse(value); err == nil && u.Host != "" {
		password, _ := u.User.Password()
		e.word(password)
		e.word(strings.Trim(u.Path, "/"))
		e.word(u.RawQuery)
		if u.User != nil {
			value = u.User.String()
		} else {
			return // its scheme and host are no secret
		}
	}
	e.word(value)
	if parts := strings.Split(value, "$"); len(parts) > 1 {
		e.word(parts[len(parts)-1]) // a password's hash without its parameters
	}
}

func (e *eraser) word(secret string) {
	if len(secret) < shortestSecret {
		return
	}
	raw := []byte(secret)
	for _, form := range []string{
		secret, base64.StdEncoding.EncodeToString(raw), base64.RawStdEncoding.EncodeToString(raw), base64.URLEncoding.EncodeToString(raw),
		hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw)), url.QueryEscape(secret),
	} {
		e.forms = append(e.forms, []byte(form))
	}
}

func (e *eraser) erase(text []byte) []byte {
	for _, form := range e.forms {
		text = bytes.ReplaceAll(text, form, []byte("***"))
	}
	return text
}
