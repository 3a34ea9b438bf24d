package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/robertkrimen/otto"
)

// pacEngine runs a PAC file as a browser would, to tell an administrator what it answers. Its JavaScript is ECMAScript 5,
// what Windows' own services know; the running gateway has no use for it.
type pacEngine struct {
	vm     *otto.Otto
	client netip.Addr // what myIpAddress tells
	now    func() time.Time
	lookup func(host string) []netip.Addr
}

// pacTime is how long a PAC file may think.
const pacTime = 5 * time.Second

var errPACSlow = fmt.Errorf("it takes longer than %v", pacTime)

// newPACEngine loads a file. Its error says where the JavaScript is wrong.
func newPACEngine(text []byte, client netip.Addr) (*pacEngine, error) {
	e := &pacEngine{vm: otto.New(), client: client, now: time.Now, lookup: lookupHost}
	e.vm.SetStackDepthLimit(2000)
	e.vm.Interrupt = make(chan func(), 1)
	for name, f := range e.helpers() {
		if err := e.vm.Set(name, f); err != nil {
			return nil, err
		}
	}
	_, err := e.bounded(func() (otto.Value, error) { return e.vm.Run(pacSource(text)) })
	if err != nil {
		return nil, fmt.Errorf("the PAC file does not run (as ECMAScript 5): %w", err)
	}
	if f, err := e.vm.Get("FindProxyForURL"); err != nil || !f.IsFunction() {
		return nil, errors.New("the PAC file has no function FindProxyForURL")
	}
	return e, nil
}

// pacSource reads bytes as browsers do: UTF-8 if they are that, else Latin-1.
func pacSource(text []byte) string {
	s := strings.TrimPrefix(string(text), "\ufeff")
	if utf8.ValidString(s) {
		return s
	}
	runes := make([]rune, 0, len(s))
	for _, b := range []byte(s) {
		runes = append(runes, rune(b))
	}
	return string(runes)
}

// find asks FindProxyForURL about a URL.
func (e *pacEngine) find(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme == "" || u.Hostname() == "" {
		return "", fmt.Errorf("%q is no URL: write https://call.example.net/", address)
	}
	u.User, u.Fragment = nil, ""
	v, err := e.bounded(func() (otto.Value, error) { return e.vm.Call("FindProxyForURL", nil, u.String(), u.Hostname()) })
	if err != nil {
		return "", fmt.Errorf("%s: %w", address, err)
	}
	if !v.IsString() {
		return "", fmt.Errorf("%s: the PAC file answers %s, which is no string: browsers then go DIRECT, or nowhere", address, v.String())
	}
	return v.String(), nil
}

// bounded runs f and interrupts it when it takes too long. An interrupt is a function that panics inside the engine: there
// is no other way out of it.
func (e *pacEngine) bounded(f func() (otto.Value, error)) (v otto.Value, err error) {
	timer := time.AfterFunc(pacTime, func() {
		select {
		case e.vm.Interrupt <- func() { panic(errPACSlow) }:
		default:
		}
	})
	defer timer.Stop()
	defer func() {
		if caught := recover(); caught != nil {
			err = fmt.Errorf("%v", caught)
		}
	}()
	return f()
}

func lookupHost(host string) []netip.Addr {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil
	}
	for i := range all {
		all[i] = all[i].Unmap()
	}
	return all
}

// helper is a function that PAC files are promised, by Netscape's text of 1996 and by Microsoft's for IPv6.
type helper func(arg func(i int) string) any

func (e *pacEngine) helpers() map[string]func(otto.FunctionCall) otto.Value {
	suffix := func(arg func(int) string) any {
		return strings.HasSuffix(strings.ToLower(arg(0)), strings.ToLower(arg(1)))
	}
	own := func(func(int) string) any {
		if e.client.IsValid() {
			return e.client.String()
		}
		return "127.0.0.1"
	}
	plain := map[string]helper{
		"isPlainHostName": func(arg func(int) string) any { return !strings.ContainsAny(arg(0), ".:") },
		"dnsDomainIs":     suffix,
		"localHostOrDomainIs": func(arg func(int) string) any {
			return arg(0) == arg(1) || !strings.Contains(arg(0), ".") && strings.HasPrefix(arg(1), arg(0)+".")
		},
		"dnsDomainLevels": func(arg func(int) string) any { return strings.Count(arg(0), ".") },
		"shExpMatch":      func(arg func(int) string) any { return shellMatch(arg(0), arg(1)) },
		"isResolvable":    func(arg func(int) string) any { return len(e.four(arg(0))) > 0 },
		"isResolvableEx":  func(arg func(int) string) any { return len(e.lookup(arg(0))) > 0 },
		"dnsResolve": func(arg func(int) string) any {
			if all := e.four(arg(0)); len(all) > 0 {
				return all[0].String()
			}
			return nil
		},
		"dnsResolveEx": func(arg func(int) string) any { return joinAddrs(e.lookup(arg(0))) },
		"isInNet":      func(arg func(int) string) any { return e.inNet(arg(0), arg(1), arg(2)) },
		"isInNetEx": func(arg func(int) string) any {
			p, err := netip.ParsePrefix(arg(1))
			return err == nil && slices.ContainsFunc(e.lookup(arg(0)), p.Contains)
		},
		"convert_addr": func(arg func(int) string) any {
			a, err := netip.ParseAddr(arg(0))
			if err != nil || !a.Is4() {
				return 0
			}
			b := a.As4()
			return int(b[0])<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3])
		},
		"myIpAddress": own, "myIpAddressEx": own,
		"sortIpAddressList": func(arg func(int) string) any { return arg(0) },
		"getClientVersion":  func(func(int) string) any { return "1.0" },
		"alert":             func(func(int) string) any { return nil },
	}
	all := map[string]func(otto.FunctionCall) otto.Value{
		"weekdayRange": e.calendar(weekdayRange), "dateRange": e.calendar(dateRange), "timeRange": e.calendar(timeRange),
	}
	for name, f := range plain {
		all[name] = func(call otto.FunctionCall) otto.Value {
			return toJS(f(func(i int) string { return call.Argument(i).String() }))
		}
	}
	return all
}

// toJS makes a value of the engine; Go's nil is null, as PAC files expect of a name that does not resolve.
func toJS(v any) otto.Value {
	if v == nil {
		return otto.NullValue()
	}
	js, err := otto.ToValue(v)
	if err != nil {
		return otto.UndefinedValue()
	}
	return js
}

func (e *pacEngine) four(host string) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(e.lookup(host)), func(a netip.Addr) bool { return !a.Is4() })
}

func (e *pacEngine) inNet(host, network, mask string) bool {
	n, err1 := netip.ParseAddr(network)
	m, err2 := netip.ParseAddr(mask)
	all := e.four(host)
	if err1 != nil || err2 != nil || !n.Is4() || !m.Is4() || len(all) == 0 {
		return false
	}
	want, bits, have := n.As4(), m.As4(), all[0].As4()
	for i := range have {
		if have[i]&bits[i] != want[i]&bits[i] {
			return false
		}
	}
	return true
}

func joinAddrs(all []netip.Addr) string {
	texts := make([]string, len(all))
	for i, a := range all {
		texts[i] = a.String()
	}
	return strings.Join(texts, ";")
}

// shellMatch knows * and ?, and no more.
func shellMatch(text, pattern string) bool {
	quoted := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(pattern))
	re, err := regexp.Compile("(?s)^" + quoted + "$")
	return err == nil && re.MatchString(text)
}
