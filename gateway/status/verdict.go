package status

import (
	"fmt"
	"strings"
	"time"
)

// Judge fills in the verdict, its sentence and its advice from the rest of the snapshot: the worst thing is said first.
func (s *Snapshot) Judge() {
	for _, judge := range []func(*Snapshot) bool{
		(*Snapshot).judgeRegionsDown, (*Snapshot).judgeCertificates, (*Snapshot).judgeDraining, (*Snapshot).judgeCallServers,
		(*Snapshot).judgeSomeRegionsDown, (*Snapshot).judgeTrust,
	} {
		if judge(s) {
			return
		}
	}
	s.Verdict, s.Sentence = "ok", "All ways are open."
}

func (s *Snapshot) say(verdict, sentence, advice string) bool {
	s.Verdict, s.Sentence, s.Advice = verdict, sentence, advice
	return true
}

// judgeRegionsDown: a service of which no region can be reached has no media at all.
func (s *Snapshot) judgeRegionsDown() bool {
	for _, svc := range s.Services {
		down, _ := svc.down()
		if len(svc.Regions) == 0 || len(down) < len(svc.Regions) {
			continue
		}
		return s.say("down", fmt.Sprintf("No relay of %s can be reached: calls have no sound and no picture.", svc.Name),
			"Let this machine reach the relays over UDP 3478, or at least TCP 443. "+firstWhy(svc.Regions))
	}
	return false
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

func (s *Snapshot) judgeCertificates() bool {
	for _, c := range s.Certificates {
		left := c.Expires.Sub(s.Time)
		name := strings.Join(c.Names, ", ")
		switch {
		case c.Expires.IsZero() || left <= 0:
			return s.say("down", fmt.Sprintf("There is no valid certificate for %s: browsers turn away.", name), c.Problem)
		case left < 7*24*time.Hour:
			return s.say("degraded", fmt.Sprintf("The certificate for %s ends in %d days.", name, int(left.Hours()/24)), orElse(c.Problem, "Renew it, then `systemctl reload hafen`."))
		}
	}
	return false
}

func (s *Snapshot) judgeDraining() bool {
	if !s.Draining {
		return false
	}
	return s.say("degraded", "The gateway is draining: it takes no new work and ends when its live sessions have ended.", "")
}

func (s *Snapshot) judgeCallServers() bool {
	for _, c := range s.CallServers {
		if c.State == "down" {
			return s.say("degraded", fmt.Sprintf("The gateway does not get through to %s (%s).", c.Host, c.Probe), c.Why+" Let this machine reach it on TCP 443.")
		}
	}
	return false
}

func (s *Snapshot) judgeSomeRegionsDown() bool {
	for _, svc := range s.Services {
		down, up := svc.down()
		if len(down) == 0 || up == 0 {
			continue
		}
		return s.say("degraded", fmt.Sprintf("%s of %s can't be reached; calls go through %s.", strings.Join(down, ", "), svc.Name, orElse(svc.Chosen, "another region")), firstWhy(svc.Regions))
	}
	return false
}

func (s *Snapshot) judgeTrust() bool {
	for _, c := range s.Certificates {
		if !c.Trusted {
			return s.say("degraded", "All ways are open, but browsers trust the gateway's certificate only where its root is installed.",
				"Install the root (`hafen ca`) on the PCs, or use a certificate of the company's CA: without one TURN over TLS does not work.")
		}
	}
	return false
}

// down names the regions that are down, and counts those that are up.
func (svc Service) down() (names []string, up int) {
	for _, r := range svc.Regions {
		if r.Up {
			up++
		} else {
			names = append(names, r.Name)
		}
	}
	return names, up
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}
