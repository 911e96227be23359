type Answer = { data?: { server?: { authentication?: string[] } } | null };

/**
 * How the server wants to know who asks: names of the schema's AuthMethod. Asked without the token of the page,
 * because an expired one must not hide the box in which it is replaced. Empty where the server does not say.
 */
export async function askAuthentication(url: string): Promise<string[]> {
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ query: '{ server { authentication } }' }),
    });
    const { data } = (await response.json()) as Answer;
    return (data?.server?.authentication ?? []).filter((method) => method !== 'NONE');
  } catch {
    return [];
  }
}
