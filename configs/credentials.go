package configs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// Files that only root may read reach the service as credentials (systemd's LoadCredential): what is secrets/turn in /etc/hafen for
// root is /run/credentials/hafen.service/secrets_turn for the service, and so it stands in hafen.yaml. Who runs a command by hand
// has no such folder while the service does not run. A command that looks into files looks where they come from then.
const (
	serviceCredentials = "/run/credentials/hafen.service"
	serviceSecrets     = "/etc/hafen/secrets"
	credentialPrefix   = serviceCredentials + "/secrets_"
)

// ByHand is the configuration as a command that is run by hand must read it: credentials of the service are named by the files that
// they are made of. Where there is nothing to translate it is c itself.
func (c *Config) ByHand(environ []string) (*Config, error) {
	if isService(environ) || !slices.ContainsFunc(c.texts(), isCredential) {
		return c, nil
	}
	if _, err := os.Stat(serviceCredentials); !errors.Is(err, fs.ErrNotExist) {
		return c, nil // the service runs: what it has is what counts
	}
	out, err := c.copy()
	if err != nil {
		return nil, err
	}
	eachText(reflect.ValueOf(out).Elem(), func(v reflect.Value) {
		if isCredential(v.String()) {
			v.SetString(filepath.Join(serviceSecrets, strings.TrimPrefix(v.String(), credentialPrefix)))
		}
	})
	return out, nil
}

// isService reports whether systemd has given this process credentials: the gateway itself, or the check before its start.
func isService(environ []string) bool {
	return slices.ContainsFunc(environ, func(entry string) bool { return strings.HasPrefix(entry, "CREDENTIALS_DIRECTORY=") })
}

// isCredential reports whether a path names a credential that comes from the folder of secrets.
func isCredential(path string) bool {
	name, ok := strings.CutPrefix(path, credentialPrefix)
	return ok && name != "" && !strings.Contains(name, "/")
}

// texts are all values that are texts.
func (c *Config) texts() (all []string) {
	eachText(reflect.ValueOf(c).Elem(), func(v reflect.Value) { all = append(all, v.String()) })
	return all
}

// eachText calls f with every text of a section, those in lists of sections too.
func eachText(section reflect.Value, f func(reflect.Value)) {
	for _, field := range fieldsOf(section.Type()) {
		v := section.Field(field.index)
		switch {
		case v.Kind() == reflect.String:
			f(v)
		case kindOf(field.typ) == sectionKind:
			eachText(v, f)
		case kindOf(field.typ) == listKind && kindOf(field.typ.Elem()) == sectionKind:
			for i := range v.Len() {
				eachText(v.Index(i), f)
			}
		}
	}
}
