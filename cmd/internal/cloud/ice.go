package cloud

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // TURN REST credentials are defined with it
	"encoding/base64"
	"net/http"
	"net/netip"
	"strconv"
)

// ICEServer is one entry of a browser's RTCConfiguration.
type ICEServer struct {
	URLs       []string `json:"urls"`
	Username   string   `json:"username,omitempty"`
	Credential string   `json:"credential,omitempty"`
}

// iceAnswer is what /ice answers: an RTCConfiguration, and beside it what the page shows but browsers ignore.
type iceAnswer struct {
	ICEServers         []ICEServer `json:"iceServers"`
	ICETransportPolicy string      `json:"iceTransportPolicy,omitempty"`
	Regions            []iceRegion `json:"regions"`
	Gateway            []string    `json:"gateway,omitempty"`
}

type iceRegion struct {
	Name  string   `json:"name"`
	Label string   `json:"label"`
	URLs  []string `json:"urls"`
}

// Credentials are time-limited ones for a user, as the TURN REST draft has them: the username is "expiry:user", the
// password its HMAC-SHA1 under the secret. Every region takes them.
func (c *Cloud) Credentials(user string) (username, password string) {
	expiry := c.opts.Now().Add(c.opts.CredentialLife).Unix()
	username = strconv.FormatInt(expiry, 10) + ":" + user
	return username, restPassword(c.opts.Secret, username)
}

func restPassword(secret, username string) string {
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// ICEServers lists the gateway's URLs, if any, then one entry for each region, or for the one named.
func (c *Cloud) ICEServers(user, region string) []ICEServer {
	username, password := c.Credentials(user)
	servers := []ICEServer{}
	if len(c.opts.Gateway) > 0 {
		servers = append(servers, ICEServer{c.opts.Gateway, username, password})
	}
	if c.opts.GatewayOnly {
		return servers
	}
	for _, r := range c.regions {
		if region == "" || region == r.opts.Name {
			servers = append(servers, ICEServer{r.URLs(), username, password})
		}
	}
	return servers
}

// serveICE answers /ice, optionally ?region=NAME&user=NAME.
func (c *Cloud) serveICE(w http.ResponseWriter, r *http.Request) {
	user, region := r.FormValue("user"), r.FormValue("region")
	if region != "" && c.Region(region) == nil {
		http.Error(w, "no such region", http.StatusNotFound)
		return
	}
	if user == "" {
		user = "guest-" + rand.Text()[:8]
	}
	if !plainWord(user) {
		http.Error(w, "user: letters, digits and dashes, at most 64", http.StatusBadRequest)
		return
	}
	answer := iceAnswer{ICEServers: c.ICEServers(user, region), Regions: []iceRegion{}, Gateway: c.opts.Gateway}
	if c.opts.ForceRelay {
		answer.ICETransportPolicy = "relay"
	}
	for _, g := range c.regions {
		answer.Regions = append(answer.Regions, iceRegion{g.opts.Name, g.opts.Label, g.URLs()})
	}
	writeJSON(w, answer)
}

// serveWhere answers /where?address=IP:PORT: the region that relays from that address. Through a gateway the page
// can't know it otherwise.
func (c *Cloud) serveWhere(w http.ResponseWriter, r *http.Request) {
	address, err := netip.ParseAddrPort(r.FormValue("address"))
	if err != nil {
		http.Error(w, "address: IP:PORT", http.StatusBadRequest)
		return
	}
	for _, g := range c.regions {
		if g.hasRelay(address) {
			writeJSON(w, map[string]string{"region": g.opts.Name, "label": g.opts.Label})
			return
		}
	}
	writeJSON(w, map[string]string{"region": "", "label": ""})
}

// plainWord is what rooms, members and users are named: 1 to 64 letters, digits and dashes.
func plainWord(s string) bool {
	for _, r := range s {
		if (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 64
}
