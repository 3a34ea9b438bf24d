package configs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// tls checks that the certificate's source has what it needs, and that nothing is set for a source that is not in use.
func (k *check) tls() {
	t := k.config.TLS
	k.choice("tls.source", t.Source)
	if t.Source == "files" && len(t.Files) == 0 {
		k.bad("tls.files", "is empty, but tls.source is files", "name a certificate and its key, cert: and key:")
	}
	if t.Source != "files" && len(t.Files) > 0 {
		k.bad("tls.files", "is set, but tls.source is not files", "write tls.source: files, or delete it")
	}
	for i, f := range t.Files {
		k.tlsFile(at("tls.files", i), f)
	}
	if t.Source != "acme" && t.ACME != (ACME{}) {
		k.bad("tls.acme", "is set, but tls.source is not acme", "write tls.source: acme, or delete it")
	}
	if t.Source == "acme" {
		k.acme()
	}
}

// tlsFile checks one certificate: PEM with a key file, or PKCS#12 with a password file. Whether key and certificate belong together is for
// those who load them.
func (k *check) tlsFile(key string, f TLSFile) {
	if f.Cert == "" {
		k.bad(key+".cert", "is missing", "name the file with the certificate and its intermediates")
		return
	}
	packed := false
	switch strings.ToLower(filepath.Ext(f.Cert)) {
	case ".p12", ".pfx":
		packed = true
	}
	switch {
	case packed:
		k.secretFile(key+".cert", f.Cert)
		k.secretFile(key+".password_file", f.PasswordFile)
		if f.Key != "" {
			k.bad(key+".key", "is set beside a PKCS#12 file, which holds its key itself", "delete it")
		}
		return
	case f.Key == "":
		k.bad(key+".key", "is missing", "name the file with the certificate's private key (PKCS#12 files end in .p12 or .pfx)")
	case f.PasswordFile != "":
		k.bad(key+".password_file", "is set for a PEM file", "delete it; a password is for PKCS#12 files")
	}
	k.file(key+".cert", f.Cert)
	k.secretFile(key+".key", f.Key)
}

func (k *check) acme() {
	a := k.config.TLS.ACME
	if a.Directory != "" {
		if u, err := url.Parse(a.Directory); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			k.bad("tls.acme.directory", "is no https:// URL", "write the directory URL of the authority, or delete it for Let's Encrypt")
		}
	}
	if a.Email != "" && (strings.Count(a.Email, "@") != 1 || strings.ContainsAny(a.Email, " \t<>,;")) {
		k.bad("tls.acme.email", "is no mail address", "write one address such as it@hospital.example")
	}
	if (a.EABKeyID == "") != (a.EABKeyFile == "") {
		k.bad("tls.acme.eab_key_id", "and eab_key_file belong together, but one is missing", "write both, or neither")
	}
	k.rootsFile("tls.acme.ca_file", a.CAFile)
	k.secretFile("tls.acme.eab_key_file", a.EABKeyFile)
	d := a.DNS
	if d == (ACMEDNS{}) {
		return
	}
	for _, part := range []struct{ key, value string }{{"server", d.Server}, {"zone", d.Zone}, {"key_name", d.KeyName}, {"key_file", d.KeyFile}} {
		if part.value == "" {
			k.bad("tls.acme.dns."+part.key, "is missing", "write server, zone, key_name and key_file, or none of them")
		}
	}
	k.secretFile("tls.acme.dns.key_file", d.KeyFile)
}

// file checks that a file can be read. Its name is never cited: it might be a secret written into the wrong place.
func (k *check) file(key, path string) []byte {
	if path == "" {
		return nil
	}
	if strings.ContainsAny(path, "\r\n\x00") || strings.Contains(path, "-----BEGIN") {
		k.bad(key, "holds a text where the name of a file belongs", "put the text into a file and write its path here")
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		k.bad(key, fileProblem(err), whatInstead(path, err))
		return nil
	}
	defer func() { _ = f.Close() }() // only read from
	text, err := io.ReadAll(io.LimitReader(f, maxFileSize))
	if err != nil {
		k.bad(key, fileProblem(err), "write the path of a file that this user may read")
		return nil
	}
	if len(text) == 0 {
		k.bad(key, "names a file that is empty", "write the path of the right one")
	}
	return text
}

func fileProblem(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "names a file that does not exist"
	case errors.Is(err, fs.ErrPermission):
		return "names a file that this user may not read"
	default:
		return "names something that cannot be read as a file"
	}
}

// whatInstead is what to do about a file that can't be opened.
func whatInstead(path string, err error) string {
	ofService := isCredential(path) || filepath.Dir(path) == serviceSecrets
	switch {
	case ofService && errors.Is(err, fs.ErrPermission):
		return "it is for the service alone: run this command as root, who may look"
	case isCredential(path):
		return "put it into " + serviceSecrets + "; the service gets what is there when it starts: systemctl restart hafen"
	case ofService:
		return "put it there, for the service: install -m 0600 FILE " + path
	}
	return "write the path of a file that this user may read"
}

// secretFile checks a file with a key or a password: others than its owner and group may not read it.
func (k *check) secretFile(key, path string) []byte {
	text := k.file(key, path)
	if text == nil {
		return nil
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o007 != 0 {
		k.bad(key, fmt.Sprintf("names a file that everybody on this machine may use (mode %04o)", info.Mode().Perm()), "chmod 0640 or 0600 that file")
	}
	return text
}

// rootsFile checks a file of further root certificates.
func (k *check) rootsFile(key, path string) {
	if text := k.file(key, path); len(text) > 0 && !x509.NewCertPool().AppendCertsFromPEM(text) {
		k.bad(key, "names a file without a certificate in PEM form", "write the path of a file with -----BEGIN CERTIFICATE----- in it")
	}
}

// secretProxyFile checks a file that holds the company proxy's URL.
func (k *check) secretProxyFile(key, path string) {
	if text := k.secretFile(key, path); len(text) > 0 && checkProxyURL(strings.TrimSpace(string(text))) != "" {
		k.bad(key, "names a file that holds no proxy URL", "put one line into it: http://user:password@proxy.hospital.example:3128")
	}
}

// checkProxyURL says what is wrong with the URL of a company proxy; "" when nothing is.
func checkProxyURL(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "is no URL"
	case u.Scheme != "http" && u.Scheme != "https":
		return "is neither an http:// nor an https:// URL"
	case u.Hostname() == "":
		return "has no host"
	case u.Port() == "":
		return "has no port, and proxies have no usual one"
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return "has something behind the port"
	}
	if _, err := parsePort(u.Port()); err != nil {
		return "has no port from 1 to 65535"
	}
	return ""
}
