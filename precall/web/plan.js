// What a run is to ask: call servers, regions, the gateway's own relay. The gateway knows.
import { within } from './wait.js';

// getPlan asks the gateway for the plan of one run. Without one the gateway alone is tested.
export async function getPlan(signal) {
  const nothing = { run: '', gateway: location.hostname, callServers: [], relays: [] };
  try {
    const response = await within(8000, fetch('/precall/plan', { cache: 'no-store', signal }), null, signal);
    return response?.ok ? { ...nothing, ...(await response.json()) } : nothing;
  } catch (error) {
    if (signal.aborted) throw error;
    return nothing;
  }
}
