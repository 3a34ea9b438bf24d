package gateway

import (
	"encoding/json"
	"net/http"
	"time"

	"hafen/configs"
	"hafen/gateway/certs"
)

// CheckCertificates opens certificates, keys and what an authority needs as serve does: nil, or one sentence.
func CheckCertificates(c *configs.Config, now time.Time) error { return certs.Check(c, now) }

// controlConfig hands out the configuration in use, secrets masked, for `hafen check --against-running`.
func (g *Gateway) controlConfig(w http.ResponseWriter, _ *http.Request) {
	hidden, err := g.config().Hidden()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(hidden) // the one who asked may be gone
}
