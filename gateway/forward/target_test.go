package forward

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"hafen/gateway/frugal"
)

func codeOf(err error) int {
	var r *refusal
	switch {
	case err == nil:
		return http.StatusOK
	case errors.As(err, &r):
		return r.code
	}
	return 0
}

func TestParseTarget(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, c := range []struct {
		id, in string
		code   int
		want   string
	}{
		{"plain", "call.example:443", 200, "call.example:443"},
		{"other port", "call.example:3478", 200, "call.example:3478"},
		{"single label", "call:443", 200, "call:443"},
		{"underscore", "my_call.example:443", 200, "my_call.example:443"},
		{"B-01", "127.0.0.1:22", 403, ""},
		{"B-01", "[::1]:443", 403, ""},
		{"B-01", "[::ffff:127.0.0.1]:443", 403, ""},
		{"B-01", "169.254.169.254:80", 403, ""},
		{"B-03", "198.51.100.7:443", 403, ""},
		{"B-03 no brackets", "::1:443", 403, ""},
		{"B-03 zone", "[fe80::1%25lo]:443", 403, ""},
		{"B-03 trailing dot", "127.0.0.1.:443", 403, ""},
		{"B-03 short", "127.1:443", 403, ""},
		{"B-03 one number", "2130706433:443", 403, ""},
		{"B-03 hex", "0x7f.1:443", 403, ""},
		{"B-03 hex last", "127.0.0.0x1:443", 403, ""},
		{"B-03 octal", "0177.0.0.01:443", 403, ""},
		{"B-03 five", "1.2.3.4.5:443", 403, ""},
		{"B-04 none", "call.example", 400, ""},
		{"B-04 empty", "call.example:", 400, ""},
		{"B-04 zero", "call.example:0", 400, ""},
		{"B-04 too large", "call.example:65536", 400, ""},
		{"B-04 far too large", "call.example:99999999999999999999", 400, ""},
		{"B-04 leading zero", "call.example:0443", 400, ""},
		{"B-04 sign", "call.example:+443", 400, ""},
		{"B-04 minus", "call.example:-443", 400, ""},
		{"B-04 name", "call.example:https", 400, ""},
		{"B-04 space", "call.example: 443", 400, ""},
		{"B-04 hex", "call.example:0x1bb", 400, ""},
		{"B-04 underscore", "call.example:4_43", 400, ""},
		{"B-04 full-width digits", "call.example:４４３", 400, ""},
		{"B-05 upper case", "CALL.Example:443", 200, "call.example:443"},
		{"B-05 one trailing dot", "call.example.:443", 200, "call.example:443"},
		{"B-05 two trailing dots", "call.example..:443", 400, ""},
		{"B-05 leading dot", ".call.example:443", 400, ""},
		{"B-05 only a dot", ".:443", 400, ""},
		{"B-05 empty label", "call..example:443", 400, ""},
		{"B-05 percent", "call.example%2eevil:443", 400, ""},
		{"B-05 wildcard", "*.x:443", 400, ""},
		{"B-05 homograph", "cаll.example:443", 400, ""}, // the a is Cyrillic
		{"B-05 its punycode", "xn--cll-5cd.example:443", 200, "xn--cll-5cd.example:443"},
		{"B-05 real punycode", "xn--bcher-kva.example:443", 200, "xn--bcher-kva.example:443"},
		{"B-05 punycode of ASCII", "xn--call-.example:443", 400, ""},
		{"B-05 punycode that is none", "xn--999999999.example:443", 400, ""},
		{"B-05 punycode of upper case", "xn--Bcher-kva.example:443", 200, "xn--bcher-kva.example:443"},
		{"B-05 Kelvin sign", "\u212Aall.example:443", 400, ""},
		{"B-05 ideographic stop", "call。example:443", 400, ""},
		{"B-05 63", long + ".example:443", 200, long + ".example:443"},
		{"B-05 64", long + "a.example:443", 400, ""},
		{"B-05 253", strings.Repeat(long[:49]+".", 5) + "abc:443", 200, strings.Repeat(long[:49]+".", 5) + "abc:443"},
		{"B-05 254", strings.Repeat(long[:49]+".", 5) + "abcd:443", 400, ""},
		{"B-05 300", strings.Repeat("a.", 150) + ":443", 400, ""},
		{"B-05 hyphen first", "-call.example:443", 400, ""},
		{"B-05 hyphen last", "call-.example:443", 400, ""},
		{"user", "user@call.example:443", 400, ""},
		{"URL", "https://call.example:443", 400, ""},
		{"path", "/x", 400, ""},
		{"path behind", "call.example:443/x", 400, ""},
		{"nothing", "", 400, ""},
		{"NUL", "call.example\x00.evil:443", 400, ""},
		{"newline", "call.example\r\nHost: evil:443", 400, ""},
		{"backslash", `call.example\evil:443`, 400, ""},
		{"not UTF-8", "call\xff.example:443", 400, ""},
	} {
		t.Run(c.id+" "+c.in[:min(len(c.in), 30)], func(t *testing.T) {
			got, err := ParseTarget(c.in)
			if codeOf(err) != c.code || err == nil && got.String() != c.want {
				t.Errorf("ParseTarget(%q) = %v, %v; want %d %s", c.in, got, err, c.code, c.want)
			}
		})
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"call.example:443", "CALL.example.:3478", "[::1]:443", "xn--bcher-kva.example:443", "call.example:0443", "a%2eb:1", "", ":", "127.1:80"} {
		f.Add(s)
	}
	p := newPolicy(testConfig(), nil)
	f.Fuzz(func(t *testing.T, s string) {
		defer frugal.Input(t)()
		target, err := ParseTarget(s)
		if err != nil {
			if code := codeOf(err); code != 400 && code != 403 {
				t.Errorf("%q: %v has code %d", s, err, code)
			}
			return
		}
		again, err := ParseTarget(target.String())
		if err != nil || again != target {
			t.Errorf("%q is %v, and again %v, %v", s, target, again, err)
		}
		if isAddress(target.Host) || strings.ContainsAny(target.Host, "%:@/*[]\\ \r\n\x00") || strings.ToLower(target.Host) != target.Host {
			t.Errorf("%q is %v", s, target)
		}
		if v := p.decide(target); v.refused == nil && !strings.HasSuffix(target.Host, "example") {
			t.Errorf("%q is allowed", s)
		}
	})
}
