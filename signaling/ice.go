package signaling

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"

	"hafen/configs"
)

// rewriter puts the gateway's own TURN URLs into the ICE servers that a call service gives to browsers, so that a service that knows nothing of
// the gateway uses it. It works on text: it finds the lists of ICE servers (RTCIceServer of the WebRTC specification) and exchanges
// their bytes; all other bytes stay as they are, and so does everything that it does not understand.
//
// In mode bridge the gateway's entry is a copy of one of the service's own with other URLs, since the relay of the service that is
// behind it authenticates. A list without such an entry is left alone. Else the credentials are minted.
type rewriter struct {
	config  *configs.Config
	service *configs.Service
	urls    []string // the gateway's
	keep    bool     // the service's own entries stay behind ours
	mint    func(service string, client netip.Addr) (username, credential string, err error)
}

// maxRewritten bounds what is held to look for ICE servers. Anything longer passes untouched.
const maxRewritten = 1 << 20

func newRewriter(c *configs.Config, s *configs.Service, keep bool, mint func(service string, client netip.Addr) (username, credential string, err error)) *rewriter {
	name := c.NameForTURN(s)
	rw := &rewriter{config: c, service: s, keep: keep, mint: mint}
	rw.urls = append(rw.urls, "turns:"+name+":"+listenPort(c.Listen.HTTPS)+"?transport=tcp")
	if len(c.Listen.TURNUDP) > 0 {
		rw.urls = append(rw.urls, "turn:"+name+":"+listenPort(c.Listen.TURNUDP)+"?transport=udp")
	}
	return rw
}

// listenPort is the port that clients are told: 443 where it is listened on, or where the port is not known before it is bound.
func listenPort(addrs []string) string {
	first := ""
	for _, a := range addrs {
		_, port, err := net.SplitHostPort(a)
		if err != nil || port == "443" || port == "0" || port == "" {
			return "443"
		}
		if first == "" {
			first = port
		}
	}
	if first == "" {
		return "443"
	}
	return first
}

// rewrite gives the text with the gateway among its ICE servers, and whether anything changed. The text may be one JSON value or several, one
// after the other: that also covers lines of JSON, and messages that have a number in front.
func (rw *rewriter) rewrite(text []byte, client netip.Addr) ([]byte, bool) {
	if !bytes.Contains(text, []byte(`"url`)) && !bytes.Contains(text, []byte(`"iceServers"`)) {
		return text, false // most messages are none of these
	}
	lists, err := findICE(text)
	if err != nil {
		return text, false
	}
	var out []byte
	done := 0
	for _, l := range lists {
		replaced, err := rw.list(text[l.start:l.end], client)
		if err != nil {
			continue
		}
		out = append(append(out, text[done:l.start]...), replaced...)
		done = l.end
	}
	if done == 0 {
		return text, false
	}
	return append(out, text[done:]...), true
}

var errNoEntry = errors.New("no entry of the service's relays")

// list writes one list of ICE servers anew.
func (rw *rewriter) list(raw []byte, client netip.Addr) ([]byte, error) {
	var originals []json.RawMessage
	if err := json.Unmarshal(raw, &originals); err != nil {
		return nil, err
	}
	entries := make([]iceEntry, len(originals))
	for i, o := range originals {
		var err error
		if entries[i], err = parseEntry(o); err != nil {
			return nil, err
		}
		if rw.lists(entries[i]) {
			return nil, errors.New("the service lists the gateway itself")
		}
	}
	ours, err := rw.entries(entries, client)
	if err != nil {
		return nil, err
	}
	out := append([]byte{'['}, bytes.Join(ours, []byte{','})...)
	switch {
	case !rw.keep:
		return append(out, ']'), nil
	case len(originals) > 0:
		out = append(out, ',')
	}
	return append(out, raw[1:]...), nil
}

// lists reports whether an entry already names the gateway.
func (rw *rewriter) lists(e iceEntry) bool {
	return slices.ContainsFunc(e.urls, func(text string) bool {
		u, err := configs.ParseTURNURL(text)
		return err == nil && rw.config.OwnName(u.Host)
	})
}

// entries are the gateway's own.
func (rw *rewriter) entries(of []iceEntry, client netip.Addr) ([][]byte, error) {
	if rw.mint != nil {
		username, credential, err := rw.mint(rw.service.Name, client)
		if err != nil {
			return nil, err
		}
		entry, err := json.Marshal(map[string]any{"urls": rw.urls, "username": username, "credential": credential})
		return [][]byte{entry}, err
	}
	for _, e := range of {
		if rw.relays(e) {
			return e.with(rw.urls), nil
		}
	}
	return nil, errNoEntry
}

// relays reports whether an entry is for relays of the service, with credentials that work there.
func (rw *rewriter) relays(e iceEntry) bool {
	return e.credential && slices.ContainsFunc(e.urls, func(text string) bool {
		u, err := configs.ParseTURNURL(text)
		if err != nil {
			return false
		}
		s, _ := rw.config.ServiceOfRelay(u.Host)
		return s != nil && s.Name == rw.service.Name
	})
}

// iceEntry is one RTCIceServer, with its members as they were written.
type iceEntry struct {
	names      []string
	values     []json.RawMessage
	urls       []string
	credential bool
}

func parseEntry(raw []byte) (iceEntry, error) {
	var e iceEntry
	d := json.NewDecoder(bytes.NewReader(raw))
	if _, err := d.Token(); err != nil { // {
		return e, err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return e, err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return e, err
		}
		e.names, e.values = append(e.names, name.(string)), append(e.values, value) // RFC 8259 section 4: a member's name is a string
		switch name {
		case "urls", "url":
			e.urls = append(e.urls, urlsOf(value)...)
		case "credential":
			e.credential = true
		}
	}
	return e, nil
}

func urlsOf(value json.RawMessage) (urls []string) {
	var one string
	if json.Unmarshal(value, &one) == nil {
		return []string{one}
	}
	_ = json.Unmarshal(value, &urls) // findICE saw nothing but strings
	return urls
}

// with copies an entry and gives it other URLs. A service that writes one URL as a string may have pages that read no list: then there is an
// entry for each URL.
func (e iceEntry) with(urls []string) [][]byte {
	if e.listed() {
		text, _ := json.Marshal(urls) // strings can be marshalled
		return [][]byte{e.print(text)}
	}
	entries := make([][]byte, 0, len(urls))
	for _, u := range urls {
		text, _ := json.Marshal(u) // as above
		entries = append(entries, e.print(text))
	}
	return entries
}

// listed reports whether the entry has its URLs in a list.
func (e iceEntry) listed() bool {
	for i, name := range e.names {
		if (name == "urls" || name == "url") && len(e.values[i]) > 0 && e.values[i][0] == '[' {
			return true
		}
	}
	return false
}

func (e iceEntry) print(urls []byte) []byte {
	var b bytes.Buffer
	for i, name := range e.names {
		if i == 0 {
			b.WriteByte('{')
		} else {
			b.WriteByte(',')
		}
		key, _ := json.Marshal(name) // as above
		b.Write(key)
		b.WriteByte(':')
		if name == "urls" || name == "url" {
			b.Write(urls)
		} else {
			b.Write(e.values[i])
		}
	}
	b.WriteByte('}')
	return b.Bytes()
}

// span is a part of a text.
type span struct{ start, end int }

// container is an object or array that findICE is inside of.
type container struct {
	array   bool
	start   int
	members int
	key     string // the object's member that is being read; "" before a name
	named   bool   // an array that is the value of iceServers
	entries bool   // an array with nothing but ICE servers in it so far
	urls    bool   // an array with nothing but ICE URLs in it so far
	ice     bool   // an object that has ICE URLs
}

// findICE finds the lists of ICE servers in a text: arrays, at any depth and under any name, whose members are all objects with ICE URLs in urls
// (or in url, its older name); and empty ones named iceServers. Lists inside of lists are not looked for.
func findICE(text []byte) ([]span, error) {
	f := &iceFinder{d: json.NewDecoder(bytes.NewReader(text))}
	f.d.UseNumber()
	for {
		token, err := f.d.Token()
		if errors.Is(err, io.EOF) && len(f.open) == 0 {
			return f.found, nil
		}
		if err != nil {
			return nil, err
		}
		if err := f.take(token); err != nil {
			return nil, err
		}
	}
}

type iceFinder struct {
	d     *json.Decoder
	open  []container
	found []span
}

// maxDepth is deeper than any message for people's programs and far from what costs memory.
const maxDepth = 200

func (f *iceFinder) take(token json.Token) error {
	top := f.top()
	if name, isString := token.(string); isString && top != nil && !top.array && top.key == "" {
		top.key = "=" + name
		return nil
	}
	switch token {
	case json.Delim('['), json.Delim('{'):
		if len(f.open) == maxDepth {
			return errors.New("too deep")
		}
		array := token == json.Delim('[')
		f.open = append(f.open, container{
			array: array, start: int(f.d.InputOffset()) - 1, entries: array, urls: array,
			named: array && top != nil && top.key == "=iceServers",
		})
	case json.Delim(']'), json.Delim('}'):
		closed := *top
		f.open = f.open[:len(f.open)-1]
		f.closed(closed)
	default:
		text, _ := token.(string)
		f.value(false, isICEURL(text))
	}
	return nil
}

func (f *iceFinder) top() *container {
	if len(f.open) == 0 {
		return nil
	}
	return &f.open[len(f.open)-1]
}

// closed takes note of an object or array that is over.
func (f *iceFinder) closed(c container) {
	if c.array && c.entries && (c.members > 0 || c.named) {
		end := int(f.d.InputOffset())
		f.found = slices.DeleteFunc(f.found, func(s span) bool { return s.start > c.start })
		f.found = append(f.found, span{c.start, end})
	}
	f.value(!c.array && c.ice, c.array && c.urls && c.members > 0)
}

// value takes note of a value in the container it is in: whether it is an ICE server, and whether it is one ICE URL or a list of them.
func (f *iceFinder) value(server, urls bool) {
	top := f.top()
	if top == nil {
		return
	}
	top.members++
	if top.array {
		top.entries, top.urls = top.entries && server, top.urls && urls
		return
	}
	if urls && (top.key == "=urls" || top.key == "=url") {
		top.ice = true
	}
	top.key = ""
}

// isICEURL reports whether a text is a URL of RFC 7064 or 7065.
func isICEURL(text string) bool {
	scheme, rest, ok := strings.Cut(text, ":")
	if !ok || rest == "" {
		return false
	}
	switch strings.ToLower(scheme) {
	case "stun", "stuns", "turn", "turns":
		return true
	}
	return false
}
