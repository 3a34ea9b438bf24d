package forward

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/dop251/goja"
	"github.com/dop251/goja/parser"

	"hafen/gateway/frugal"
)

// FuzzPAC: whatever a browser asks the PAC file, it answers with one of three things, and sends only the services' names to the gateway.
func FuzzPAC(f *testing.F) {
	for _, seed := range [][2]string{
		{"https://call.example/", "call.example"},
		{"wss://a.rooms.example:443/x?y", "A.ROOMS.example."},
		{"http://turn.call.example:3478", "turn.call.example"},
		{"https://gw.hospital.example/", "gw.hospital.example"},
		{"https://xcall.example@call.example:65536/", "call.example.evil.example"},
		{"", ""},
		{"ftp://[::1]:443", "[::1]"},
	} {
		f.Add(seed[0], seed[1])
	}
	c := testConfig()
	c.PAC.Otherwise = "PROXY rest.example:1"
	vm := goja.New()
	if _, err := vm.RunString(string(render(f, PACInput{Config: c}))); err != nil {
		f.Fatal(err)
	}
	find, _ := goja.AssertFunction(vm.Get("FindProxyForURL"))
	exact, below := pacTargets(c)
	own := pacOwn(c)
	f.Fuzz(func(t *testing.T, url, host string) {
		defer frugal.Input(t)()
		got, err := find(goja.Undefined(), vm.ToValue(url), vm.ToValue(host))
		if err != nil {
			t.Fatalf("%q, %q: %v", url, host, err)
		}
		name := strings.TrimSuffix(strings.ToLower(host), ".")
		ours := slices.ContainsFunc(exact, func(to pacTarget) bool { return name == to.host }) ||
			slices.ContainsFunc(below, func(to pacTarget) bool { return strings.HasSuffix(name, to.host) })
		isOwn := slices.Contains(own, name)
		switch answer := got.String(); {
		case answer == viaGateway && ours && !isOwn, answer == "DIRECT" && isOwn, answer == c.PAC.Otherwise && !isOwn:
		default:
			t.Fatalf("%q, %q: %q", url, host, answer)
		}
	})
}

// FuzzParent: a company's file that is taken stands first and unchanged in ours, and ours is a script if the company's is one.
func FuzzParent(f *testing.F) {
	f.Add([]byte("function FindProxyForURL(url, host) { return 'DIRECT'; }"), "utf-8")
	f.Add([]byte("\xef\xbb\xbfvar FindProxyForURL = function (u, h) { return h } // end"), "x; y")
	f.Add([]byte("<html>FindProxyForURL"), "")
	f.Add([]byte("FindProxyForURL /* "), "iso-8859-1\r\nX: y")
	c := testConfig()
	c.PAC.Otherwise, c.PAC.Parent = "", "http://wpad.corp.example/proxy.pac"
	f.Fuzz(func(t *testing.T, text []byte, charset string) {
		defer frugal.Input(t)()
		p, err := newParent(text, charset)
		if err != nil {
			return
		}
		if strings.ContainsAny(p.Charset, "\r\n\";, ") {
			t.Fatalf("%q becomes %q in a header", charset, p.Charset)
		}
		file := render(t, PACInput{Config: c, Parent: p})
		if !bytes.HasPrefix(file, text) {
			t.Fatalf("%q does not stand first and unchanged", text)
		}
		if _, err := parser.ParseFile(nil, "", string(text), 0); err != nil {
			return
		}
		if _, err := parser.ParseFile(nil, "", string(file), 0); err != nil {
			t.Fatalf("%q is a script, and ours behind it is none: %v", text, err)
		}
	})
}
