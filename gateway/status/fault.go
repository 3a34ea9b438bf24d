package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The levels of a Fault, the worst first.
const (
	Critical = "critical" // calls fail now
	Warning  = "warning"  // somebody should look today
	Notice   = "notice"   // worth knowing; nobody is alarmed
)

// Fault is one thing that is wrong now: what, how bad, and what to do.
type Fault struct {
	// ID is the same for as long as the fault lasts: its kind and what it is about.
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	Level    string `json:"level"`
	Sentence string `json:"sentence"`
	// Advice is one line of what to do.
	Advice string `json:"advice,omitempty"`
	// Works is what still works all the same.
	Works string `json:"works,omitempty"`
	// Manual is the page of the manual, with its anchor.
	Manual string `json:"manual"`
	// Service and Region are what it is about, where it is about one.
	Service string `json:"service,omitempty"`
	Region  string `json:"region,omitempty"`
}

const (
	// A certificate that ends within renewTime should have been renewed; within urgentTime somebody has to.
	renewTime  = 14 * 24 * time.Hour
	urgentTime = 7 * 24 * time.Hour
	// nearlyFull is the share of a limit from which it is worth a warning.
	nearlyFull = 0.8
)

// Judge finds everything that is wrong in the rest of the snapshot, the worst first, and makes the verdict of it.
func (s *Snapshot) Judge() {
	s.Faults = slices.Concat(s.regionFaults(), s.certificateFaults(), s.callServerFaults(), s.limitFaults(), s.selfTestFaults(), s.drainFaults())
	s.Faults = append(s.Faults, s.trustFaults(len(s.Faults) == 0)...)
	levels := []string{Critical, Warning, Notice}
	slices.SortStableFunc(s.Faults, func(a, b Fault) int { return cmp.Compare(slices.Index(levels, a.Level), slices.Index(levels, b.Level)) })
	if len(s.Faults) == 0 {
		s.Verdict, s.Sentence = "ok", "All ways are open."
		return
	}
	worst := s.Faults[0]
	s.Verdict, s.Sentence, s.Advice = "degraded", worst.Sentence, worst.Advice
	if worst.Level == Critical {
		s.Verdict = "down"
	}
}

func newFault(kind, about, level, sentence, advice, works string) Fault {
	return Fault{
		ID: strings.TrimSuffix(kind+":"+about, ":"), Kind: kind, Level: level, Sentence: sentence, Advice: strings.TrimSpace(advice), Works: works,
		Manual: "alerts.md#" + kind,
	}
}

// regionFaults: a service of which no region can be reached has no media at all; one region of several is a warning.
func (s *Snapshot) regionFaults() (all []Fault) {
	for _, svc := range s.Services {
		down, up := svc.down()
		for _, r := range svc.Regions {
			if r.Drill {
				all = append(all, newFault("drill", svc.Name+"/"+r.Name, Notice, fmt.Sprintf("A drill keeps new sessions away from %s of %s.", r.Name, svc.Name),
					"It ends by itself; `hafen drill region --end` ends it now.", "Calls go on through another region."))
			}
		}
		switch {
		case len(down) == 0:
		case up == 0:
			f := newFault("no-region", svc.Name, Critical, fmt.Sprintf("No relay of %s can be reached: calls have no sound and no picture.", svc.Name),
				"Let this machine reach the relays over UDP 3478, or at least TCP 443. "+firstWhy(down), "Signing in, ringing and chat still work.")
			f.Service = svc.Name
			all = append(all, f)
		default:
			for _, r := range down {
				f := newFault("region-down", svc.Name+"/"+r.Name, Warning, fmt.Sprintf("%s of %s can't be reached; calls go through %s.", r.Name, svc.Name, orElse(svc.Chosen, "another region")),
					orElse(firstWhy([]Region{r}), "Ask the call service whether that region is in trouble."), "Calls go on through another region.")
				f.Service, f.Region = svc.Name, r.Name
				all = append(all, f)
			}
		}
	}
	return all
}

func firstWhy(regions []Region) string {
	for _, r := range regions {
		for _, g := range r.Rungs {
			if g.Why != "" {
				return fmt.Sprintf("%s over %s: %s", r.Name, g.Name, g.Why)
			}
		}
	}
	return ""
}

// down tells which regions that may be used are down, and counts those that are up.
func (svc Service) down() (down []Region, up int) {
	for _, r := range svc.Regions {
		switch {
		case r.Up:
			up++
		case r.Use && !r.Drill:
			down = append(down, r)
		}
	}
	return down, up
}

func (s *Snapshot) certificateFaults() (all []Fault) {
	for _, c := range s.Certificates {
		left := c.Expires.Sub(s.Time)
		name := strings.Join(c.Names, ", ")
		days := int(left.Hours() / 24)
		switch {
		case c.Expires.IsZero() || left <= 0:
			all = append(all, newFault("certificate-ended", name, Critical, fmt.Sprintf("There is no valid certificate for %s: browsers turn away.", name),
				orElse(c.Problem, "Renew it, then `systemctl reload hafen`."), "What is connected stays connected."))
		case left < renewTime && left < c.lifetime()/3:
			level := Warning
			if left < urgentTime/7 {
				level = Critical
			}
			all = append(all, newFault("certificate-ends", name, level, fmt.Sprintf("The certificate for %s ends in %d days.", name, days),
				orElse(c.Problem, "Renew it, then `systemctl reload hafen`."), "Everything works until then."))
		case c.Problem != "":
			all = append(all, newFault("certificate-not-taken", name, Warning, fmt.Sprintf("The new certificate for %s was not taken; the old one stays in use.", name), c.Problem, "Everything works with the old one."))
		}
	}
	return all
}

// lifetime is from the certificate's begin to its end; where nobody told, that of the usual ones.
func (c Certificate) lifetime() time.Duration {
	if c.Begins.IsZero() {
		return 365 * 24 * time.Hour
	}
	return c.Expires.Sub(c.Begins)
}

// callServerFaults: a service of which no call server answers can't begin calls. One server of several, or one check of several,
// is a warning.
func (s *Snapshot) callServerFaults() (all []Fault) {
	services, hosts := make(map[string]bool), make(map[string]bool)
	for _, c := range s.CallServers {
		services[c.Service] = services[c.Service] || c.State == "up"
		hosts[c.Service+" "+c.Host] = hosts[c.Service+" "+c.Host] || c.State == "up"
	}
	told := make(map[string]bool)
	for _, c := range s.CallServers {
		host := c.Service + " " + c.Host
		if c.State != "down" || told[host] {
			continue
		}
		sentence := fmt.Sprintf("The gateway does not get through to %s (%s).", c.Host, c.Probe)
		advice := c.Why + " Let this machine reach it on TCP 443."
		var f Fault
		switch {
		case hosts[host]:
			f = newFault("call-server-check", c.Host+" "+c.Probe, Warning, sentence, c.Why+c.checkAdvice(), "Its other ways work; browsers fall back to them.")
		case services[c.Service]:
			f = newFault("call-server-down", c.Host, Warning, sentence, advice, "Other call servers of the service answer.")
		default:
			f = newFault("call-server-down", c.Host, Critical, sentence, advice, "Calls that run go on; new ones may not begin.")
		}
		told[host] = !hosts[host]
		f.Service = c.Service
		all = append(all, f)
	}
	return all
}

// checkAdvice is for a way that does not work to a server that another way gets through to.
func (c CallServer) checkAdvice() string {
	switch c.Probe {
	case "WebSocket":
		return " Exempt it from application filters, WebSockets must pass; is probes.websocket right?"
	case "long-poll":
		return " Raise idle time-outs on the way to 3600 s; is probes.longpoll right?"
	}
	return " Let this machine reach it on TCP 443."
}

func (s *Snapshot) limitFaults() (all []Fault) {
	for _, l := range s.Limits {
		if l.Max <= 0 {
			continue
		}
		how := fmt.Sprintf("%d of %d are in use.", l.Used, l.Max)
		switch {
		case l.Used >= l.Max || l.Refused > 0:
			level, sentence := Critical, fmt.Sprintf("%s is reached: new sessions are refused.", l.Key)
			if l.PerClient {
				level, sentence = Warning, fmt.Sprintf("%s is reached by a client: its new sessions are refused.", l.Key)
			}
			all = append(all, newFault("limit-reached", l.Key, level, sentence, how+" "+l.advice(), "Sessions that run go on."))
		case float64(l.Used) >= nearlyFull*float64(l.Max):
			all = append(all, newFault("limit-near", l.Key, Warning, fmt.Sprintf("%s is nearly reached.", l.Key), how+" "+l.advice(), "Everything works until then."))
		}
	}
	return all
}

func (l Limit) advice() string {
	if l.Key == FilesLimit {
		return "Write LimitNOFILE=65536 in the unit, and find out which clients hold so many connections."
	}
	return "Raise it, or find out which clients hold so many: see the live sessions."
}

// selfTestFaults: what the gateway tests about itself and did not pass.
func (s *Snapshot) selfTestFaults() (all []Fault) {
	for _, t := range s.SelfTests {
		level := map[string]string{"fail": Critical, "warn": Warning}[t.State]
		if level == "" {
			continue
		}
		all = append(all, newFault(t.Kind, "", level, t.Sentence, t.Advice, t.Works))
	}
	return all
}

func (s *Snapshot) drainFaults() []Fault {
	if !s.Draining {
		return nil
	}
	return []Fault{newFault("draining", "", Notice, "The gateway is draining: it takes no new work and ends when its live sessions have ended.", "", "Sessions that run go on.")}
}

// trustFaults: alone says that nothing else is wrong.
func (s *Snapshot) trustFaults(alone bool) []Fault {
	sentence := "Browsers trust the gateway's certificate only where its root is installed."
	if alone {
		sentence = "All ways are open, but browsers trust the gateway's certificate only where its root is installed."
	}
	for _, c := range s.Certificates {
		if !c.Trusted {
			return []Fault{newFault("untrusted", "", Notice, sentence,
				"Install the root (`hafen ca`) on the PCs, or use a certificate of the company's CA: without one TURN over TLS does not work.", "Everything works where the root is installed.")}
		}
	}
	return nil
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}
