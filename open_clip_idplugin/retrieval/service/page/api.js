// Requests to the service that this page comes from. Addresses are relative, so that a proxy may put a folder before them.

export class ServiceError extends Error {}

// GET without a body, POST of JSON with one. Throws ServiceError with the service's own sentence. `headers`: takes those of the
// answer.
export async function ask(address, body, headers = () => {}) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new ServiceError("the service cannot be reached: is it still running?");
  }
  if (answer.status === 401) {
    location.assign("login");
    throw new ServiceError("please log in again");
  }
  let value;
  try {
    value = await answer.json();
  } catch {
    throw new ServiceError(`the service gave no readable answer (HTTP ${answer.status})`);
  }
  if (!answer.ok) {
    throw new ServiceError(value.message || (value.status === "loading" ? "the service is still loading: try again in a moment" : `the service refused (HTTP ${answer.status})`));
  }
  headers(answer.headers);
  return value;
}
